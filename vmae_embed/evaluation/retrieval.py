"""Recall and speed of an index, measured on what a search returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.evaluation.queries import Queries
from vmae_embed.index import Index
from vmae_embed.intervals import Estimate, estimate

AT = (1, 10, 100)
# Of what the speed is measured: the hits that a search gives unless told otherwise.
SPEED_AT = 10

_BATCH = 256
_WARM_UP = 5
_LEAST_TIMED = 10
_MOST_BATCHES, _ENOUGH_S = 5, 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast 10 neighbours are found.

    Attributes:
        p50_ms: of single queries, one after another: half take longer, in milliseconds.
        p99_ms: one in a hundred takes longer.
        timed: single queries that were timed.
        per_s: queries a second in batches of 256; the median of up to five batches.
    """

    p50_ms: float
    p99_ms: float
    timed: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What an index finds of what is there.

    Attributes:
        recall: by K.
        there: fewest clips that were there to be found for any query; less than K caps recall@K.
        speed: of the index.
        exact_speed: of comparing with every clip.
    """

    recall: dict[int, Estimate]
    there: int
    speed: Speed
    exact_speed: Speed


def evaluate_index(index: Index, queries: Queries, *, at: Sequence[int] = AT) -> Retrieval:
    """Measure an index against an exact search.

    recall@K is the share of the K nearest clips that a search for K hits returns. Each K has
    searches of its own, widened only as `answer` says: to ask once for the largest K would have
    more candidates compared exactly, and flatter recall@1 and @10.

    Args:
        index: to measure.
        queries: to measure it with.
        at: each K.
    """
    truth = true_scores(index, queries, max(at))
    marks, counts = np.unique(queries.marks[index.live], return_counts=True)
    left_out = counts[np.isin(marks, queries.own)]
    return Retrieval(
        recall={k: estimate(recall(index, queries, truth, k), queries.videos) for k in at},
        there=len(index) - int(left_out.max(initial=0)),
        speed=measure_speed(index, queries),
        exact_speed=measure_speed(index, queries, exact=True),
    )


def answer(index: Index, queries: Queries, k: int, *, exact: bool = False, **how: Any) -> NDArray[np.int64]:
    """Find what `vmae_embed.search` shows for each query: its K nearest, its own left out.

    As that does, the index is asked for k. Where less is left of them without the query's own, it is
    asked again, for four times as many, until k are left or all clips were asked for.

    Args:
        index: to ask.
        queries: Q of them.
        k: hits wanted.
        exact: compare with every clip.
        how: what else `Index.search` takes.

    Returns:
        Rows ``(Q, K)`` int64, best first; -1 where there are fewer.
    """
    found = np.full((len(queries), k), -1)
    waiting, wanted = np.arange(len(queries)), k
    while len(waiting):
        asked = queries.take(waiting)
        _, rows = index.search(asked.vectors, wanted, exact=exact, **how)
        allowed = queries.marks[rows] != asked.own[:, None]
        best = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
        found[waiting, : best.shape[1]] = np.where(
            np.take_along_axis(allowed, best, 1), np.take_along_axis(rows, best, 1), -1
        )
        if wanted >= len(index):
            break
        waiting = waiting[allowed.sum(axis=1) < k]
        wanted = min(wanted * 4, len(index))
    return found


def true_scores(index: Index, queries: Queries, k: int) -> NDArray[np.float64]:
    """Scores of the K nearest clips by exact search, ``(Q, K)``, best first; -inf where there are fewer."""
    found = [
        _scores(index, batch, answer(index, batch, k, exact=True)) for batch in _batches(queries)
    ]  # in batches: an exact search holds a number for every pair
    return -np.sort(-np.concatenate(found), axis=1)


def recall(index: Index, queries: Queries, truth: NDArray[np.float64], k: int, **how: Any) -> NDArray[np.float64]:
    """Give the share of each query's K nearest clips that a search for K hits returns, ``(Q,)``.

    A hit counts if its score is no worse than that of the K-th nearest clip: of clips that are equally
    near, exact duplicates above all, any will do. Where fewer than K clips are there, all of
    them are the nearest.

    Args:
        index: to ask.
        queries: Q of them.
        truth: of `true_scores`, for K or more.
        k: hits wanted.
        how: what else `Index.search` takes.
    """
    there = np.isfinite(truth[:, :k]).sum(axis=1)
    worst = truth[np.arange(len(truth)), there - 1]
    found = [_scores(index, batch, answer(index, batch, k, **how)) for batch in _batches(queries)]
    shares: NDArray[np.float64] = (np.concatenate(found) >= worst[:, None]).sum(axis=1) / there
    return shares


def measure_speed(index: Index, queries: Queries, *, most_s: float = 10.0, **how: Any) -> Speed:
    """Time searches for 10 hits, own clips left out, after a few that are not timed.

    Args:
        index: to ask.
        queries: sent one after another, and then the first 256 of them at once, up to five times.
        most_s: seconds after which no more single queries are sent, once there are ten.
        how: what else `Index.search` takes.
    """
    for i in range(min(_WARM_UP, len(queries))):
        answer(index, queries.take(slice(i, i + 1)), SPEED_AT, **how)
    singles: list[float] = []
    while len(singles) < len(queries) and (len(singles) < _LEAST_TIMED or sum(singles) < most_s):
        one = queries.take(slice(len(singles), len(singles) + 1))
        singles.append(_seconds(lambda one=one: answer(index, one, SPEED_AT, **how)))  # type: ignore[misc]
    batch = queries.take(slice(0, _BATCH))
    batches: list[float] = []
    while len(batches) < _MOST_BATCHES and sum(batches) < _ENOUGH_S:
        batches.append(_seconds(lambda: answer(index, batch, SPEED_AT, **how)))
    p50, p99 = np.percentile(singles, [50, 99]) * 1000
    return Speed(float(p50), float(p99), len(singles), len(batch) / float(np.median(batches)))


def similarities(
    metric: str, queries: NDArray[np.floating[Any]], vectors: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Score pairs of vectors, in float64.

    Args:
        metric: ``cosine``, ``ip`` or ``l2`` (minus the distance).
        queries: ``(..., D)``.
        vectors: ``(..., D)``, broadcast against them.
    """
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        distances: NDArray[np.float64] = np.sqrt(((a - b) ** 2).sum(axis=-1))
        return -distances
    # Summed vector by vector, not as a matrix product: equal vectors get equal scores, to the bit.
    products: NDArray[np.float64] = (a * b).sum(axis=-1)
    if metric == "ip":
        return products
    lengths = np.sqrt((a**2).sum(axis=-1)) * np.sqrt((b**2).sum(axis=-1))
    return products / np.where(lengths > 0, lengths, 1)


def _scores(index: Index, queries: Queries, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score rows anew, whatever the index says of them; -inf for row -1."""
    scores = np.full(rows.shape, -np.inf)
    for i, found in enumerate(rows):
        there = found >= 0
        scores[i, there] = similarities(index.metric, queries.vectors[i], index.vectors(found[there]))
    return scores


def _batches(queries: Queries) -> list[Queries]:
    return [queries.take(slice(start, start + _BATCH)) for start in range(0, len(queries), _BATCH)]


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
