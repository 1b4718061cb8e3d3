"""The clips nearest to queries, from the best down, as deep as is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index import Index
from vmae_embed.query.asked import Asked

# Vectors in one call of the index, which reads its vectors once for all of them; and scores that it returns.
_VECTORS_AT_ONCE = 256
_SCORES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Ranked:
    """Rows of the index's table, from the best down, each once.

    Attributes:
        scores: ``(K,)`` float32.
        rows: ``(K,)`` int64.
        vectors: ``(K,)``, which of the query's vectors each is nearest to.
        floor: no row that is missing scores above this.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    vectors: NDArray[np.int64]
    floor: float


def at_once(depth: int) -> int:
    """How many queries to ask at a time, so that what comes back fits into memory."""
    return max(1, min(_VECTORS_AT_ONCE, _SCORES_AT_ONCE // depth))


def rank(
    index: Index, asked: Sequence[Asked], depth: int, *, among: NDArray[np.int64], exact: bool = False
) -> list[Ranked]:
    """Rank clips by the nearest of each query's vectors.

    Args:
        index: to search.
        asked: queries; with `at_once`, as many as fit.
        depth: neighbours of each vector.
        among: ascending rows that may be found.
        exact: compare with every clip, whatever the index.
    """
    vectors = np.concatenate([one.vectors for one in asked])
    ends = np.cumsum([len(one.vectors) for one in asked])
    begins = ends - [len(one.vectors) for one in asked]
    everything = depth >= len(among)
    # What is said of all clips need not be said: an index may then use its own order of search.
    some = None if len(among) == len(index) else among
    nothing = Ranked(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64), -np.inf)
    ranked = [nothing] * len(asked)
    step = at_once(depth)
    for start in range(0, len(vectors), step):
        scores, rows = index.search(vectors[start : start + step], depth, exact=exact, among=some)
        stop = start + len(scores)
        for i in np.flatnonzero((begins < stop) & (ends > start)):
            first, last = max(begins[i], start), min(ends[i], stop)
            part = slice(first - start, last - start)
            numbers = np.arange(first - begins[i], last - begins[i])
            ranked[i] = _merge(ranked[i], scores[part], rows[part], numbers, everything=everything)
    return [_scaled(one, query.scale) for one, query in zip(ranked, asked, strict=True)]


def _merge(
    so_far: Ranked,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    vectors: NDArray[np.int64],
    *,
    everything: bool,
) -> Ranked:
    """Add the results ``(Q, K)`` of more vectors of one query; a row counts where it scores best."""
    # A row that is in none of the lists scores below the end of each; one that is in some, at most as the best end.
    floor = so_far.floor if everything else max(so_far.floor, float(scores[:, -1].max()))
    if len(scores) == 1 and not len(so_far.rows):
        return Ranked(scores[0], rows[0], np.repeat(vectors, rows.shape[1]), floor)
    all_scores = np.concatenate([so_far.scores, scores.ravel()])
    all_rows = np.concatenate([so_far.rows, rows.ravel()])
    all_vectors = np.concatenate([so_far.vectors, np.repeat(vectors, rows.shape[1])])
    order = np.lexsort((all_vectors, all_rows, -all_scores))
    _, first = np.unique(all_rows[order], return_index=True)
    kept = order[np.sort(first)]
    return Ranked(all_scores[kept], all_rows[kept], all_vectors[kept], floor)


def _scaled(ranked: Ranked, scale: float) -> Ranked:
    if scale == 1:
        return ranked
    floor = ranked.floor * scale if np.isfinite(ranked.floor) else ranked.floor
    return Ranked(ranked.scores * np.float32(scale), ranked.rows, ranked.vectors, floor)
