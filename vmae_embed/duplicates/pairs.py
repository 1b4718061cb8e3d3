"""Which clips look alike: every pair above a threshold, each once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.duplicates.clips import TOLERANCE_S, Clips, Vectors
from vmae_embed.index import Effort, Index

SCOPES = ("both", "between", "within")

# Of a comparison of all with all: 4096 x 2048 scores are 32 MiB, and 200 MiB where all are alike.
_QUERIES, _OTHERS = 4096, 2048
# Of an index: neighbours asked for first, and how many times more where they are all alike.
_FIRST_K, _MORE = 32, 4
# Neighbours counted on in one cell: those that hold the least were trained on 39 vectors.
_A_CELL = 10
# Candidates of an index that are compared at once.
_CANDIDATES = 65536

Ints = NDArray[np.int64]
# Queries, what they look like, scores; and how many of the queries may look like more.
_Found = tuple[Ints, Ints, NDArray[np.float32], int]


@dataclass(frozen=True)
class Limits:
    """Which pairs are wanted, and how many at most.

    Attributes:
        threshold: the lowest score.
        scope: one of `SCOPES`: pairs between videos, within them, or both.
        per_clip: best pairs that each clip keeps; it may have more, of clips that keep it.
        pairs: best pairs that are kept in all.
    """

    threshold: float
    scope: str
    per_clip: int
    pairs: int


@dataclass(frozen=True)
class Matches:
    """P pairs of clips that look alike, each once: ``a`` is of the lesser video id, or the earlier moment.

    Attributes:
        a: ``(P,)`` int64, places in `Clips`.
        b: ``(P,)`` int64, likewise.
        score: ``(P,)`` float32.
        crowded: how many clips look like more than they keep.
        cut_at: the lowest score left after the worst pairs were let go, there being too many; else None.
    """

    a: Ints
    b: Ints
    score: NDArray[np.float32]
    crowded: int
    cut_at: float | None


def match(
    index: Index,
    clips: Clips,
    vectors: Vectors,
    limits: Limits,
    *,
    exact: bool,
    on_progress: Callable[[int, int], None],
) -> Matches:
    """Find the pairs of clips that look alike.

    Clips are not paired with those that overlap them, nor with those that they lead up to without a
    change: a picture that stands still does not repeat itself.

    Args:
        index: that is asked for neighbours, unless ``exact``.
        clips: its live clips.
        vectors: theirs.
        limits: what is wanted.
        exact: compare all with all.
        on_progress: called with how many clips have been compared, and of how many.
    """
    wanted = _Wanted(clips, _stretches(clips, vectors, limits.threshold), limits.scope)
    kept = _Kept(len(clips), limits)
    blocks = _by_comparison(clips, vectors, wanted, kept) if exact else _by_index(index, clips, vectors, wanted, kept)
    done = 0
    for size, found in blocks:
        kept.add(*found)
        done += size
        on_progress(done, len(clips))
    return kept.matches(clips)


class _Wanted:
    """Which pairs of clips may count."""

    def __init__(self, clips: Clips, stretches: Ints, scope: str) -> None:
        self._clips, self._stretches, self._scope = clips, stretches, scope

    def __call__(self, a: Ints, b: Ints) -> NDArray[np.bool_]:
        same_video: NDArray[np.bool_] = self._clips.video[a] == self._clips.video[b]
        if self._scope == "between":
            return ~same_video
        is_rest = same_video & (self._stretches[a] == self._stretches[b])
        wanted: NDArray[np.bool_] = ~is_rest & ~self._clips.overlap(a, b)
        if self._scope == "within":
            wanted &= same_video
        return wanted


def _stretches(clips: Clips, vectors: Vectors, threshold: float) -> Ints:
    """``(N,)``: equal for clips of one video between which each looks like the next that it does not overlap."""
    order = np.lexsort((clips.start_s, clips.video))
    video, start, end = clips.video[order], clips.start_s[order], clips.end_s[order]
    is_change = np.zeros(len(order), bool)
    for first in range(0, len(order), _OTHERS):
        here = np.arange(first, min(first + _OTHERS, len(order)))
        following = here
        overlapping = np.ones(len(here), bool)
        while overlapping.any():  # as many rounds as clips overlap one
            following = np.minimum(following + overlapping, len(order) - 1)
            overlapping = (video[following] == video[here]) & (start[following] < end[here] - TOLERANCE_S)
            overlapping &= following < len(order) - 1
        is_next = (video[following] == video[here]) & (following > here)
        here, following = here[is_next], following[is_next]
        products = vectors(order[here]) * vectors(order[following])
        is_change[here] = products.sum(axis=1) < threshold
    stretches = np.empty(len(order), np.int64)
    stretches[order] = np.cumsum(is_change) - is_change
    # Clips without times lead up to nothing.
    return np.where(clips.end_s > clips.start_s, stretches, len(order) + np.arange(len(order)))


def _by_comparison(clips: Clips, vectors: Vectors, wanted: _Wanted, kept: _Kept) -> Iterator[tuple[int, _Found]]:
    """Compare all with all."""
    for start in range(0, len(clips), _QUERIES):
        queries = np.arange(start, min(start + _QUERIES, len(clips)))
        asked = vectors(queries)
        found: list[_Found] = []
        for first in range(0, len(clips), _OTHERS):
            others = np.arange(first, min(first + _OTHERS, len(clips)))
            scores = asked @ vectors(others).T
            found.append(_choose(queries, others[None], scores, wanted, kept, 0))
        yield len(queries), _joined(found)


def _by_index(
    index: Index, clips: Clips, vectors: Vectors, wanted: _Wanted, kept: _Kept
) -> Iterator[tuple[int, _Found]]:
    """Ask the index for more and more neighbours, until they look like the query no longer."""
    for start in range(0, len(clips), _QUERIES):
        pending = np.arange(start, min(start + _QUERIES, len(clips)))
        size, found, k = len(pending), list[_Found](), _FIRST_K
        while len(pending):
            k = min(k, len(clips))
            is_last = k >= min(len(clips), _MORE * kept.per_clip)
            left = []
            for queries in np.array_split(pending, -(-len(pending) * k // _CANDIDATES)):
                _, rows = index.search(vectors.stored(queries), k, effort=_effort(index, k))
                others = np.searchsorted(clips.rows, rows)
                compared = vectors(others.ravel()).reshape(*others.shape, -1)
                scores = (compared @ vectors(queries)[:, :, None])[:, :, 0]
                # An index has its own order, of vectors that are not centred: one of the last may still be alike.
                last = scores[:, -max(k // 4, 1) :]
                is_full = np.asarray((last >= kept.threshold).any(axis=1)) & (k < len(clips))
                done = np.arange(len(queries)) if is_last else np.flatnonzero(~is_full)
                left.append(np.delete(queries, done))
                unsure = int(is_full[done].sum())
                found.append(_choose(queries[done], others[done], scores[done], wanted, kept, unsure))
            pending, k = np.concatenate(left), k * _MORE
        yield size, _joined(found)


def _effort(index: Index, k: int) -> Effort | None:
    """What was tuned for a few neighbours, and more cells for many: an index that finds too few compares all."""
    tuned = index.effort
    return tuned and Effort(max(tuned.nprobe, k // _A_CELL + 1), tuned.candidates)


def _choose(
    queries: Ints, others: Ints, scores: NDArray[np.float32], wanted: _Wanted, kept: _Kept, unsure: int
) -> _Found:
    """The pairs that count of scores ``(Q, K)``; at most one more of a query than it keeps."""
    places = np.nonzero(scores >= kept.threshold)
    a, b = queries[places[0]], np.broadcast_to(others, scores.shape)[places]
    score = np.minimum(scores[places], 1)
    counts = wanted(a, b)
    a, b, score = a[counts], b[counts], score[counts]
    best = best_of_each(a, b, score, kept.per_clip + 1)
    return a[best], b[best], score[best], unsure


def _joined(found: list[_Found]) -> _Found:
    a, b, score, unsure = zip(*found, strict=True)
    return np.concatenate(a), np.concatenate(b), np.concatenate(score), sum(unsure)


def best_of_each(queries: Ints, others: Ints, score: NDArray[np.float32], most: int) -> Ints:
    """Places of the best ``most`` pairs of each query; of all, in order, where none has more."""
    if not len(queries) or np.bincount(queries - queries.min()).max() <= most:
        return np.arange(len(queries))
    order = np.lexsort((others, -score, queries))
    begins = np.flatnonzero(np.diff(queries[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return order[rank < most]


class _Kept:
    """The pairs found so far. Where they become too many, the threshold rises."""

    def __init__(self, count: int, limits: Limits) -> None:
        self.threshold = limits.threshold
        self.per_clip = limits.per_clip
        self._most = limits.pairs
        self._count = count
        self._keys = [np.empty(0, np.int64)]
        self._scores = [np.empty(0, np.float32)]
        self._held = 0
        self._crowded = 0
        self._cut_at: float | None = None

    def add(self, a: Ints, b: Ints, score: NDArray[np.float32], unsure: int) -> None:
        """Take all the pairs of some clips ``a``."""
        best = best_of_each(a, b, score, self.per_clip)
        self._crowded += max(unsure, int((np.unique(a, return_counts=True)[1] > self.per_clip).sum()))
        a, b, score = a[best], b[best], score[best]
        self._keys.append(np.minimum(a, b) * self._count + np.maximum(a, b))
        self._scores.append(score)
        self._held += len(score)
        if self._held > 2 * self._most:  # each may have been found from both sides
            self._settle()

    def _settle(self) -> None:
        keys, first = np.unique(np.concatenate(self._keys), return_index=True)
        scores = np.concatenate(self._scores)[first]
        if len(keys) > self._most:
            best = np.sort(np.argsort(-scores, kind="stable")[: self._most])
            keys, scores = keys[best], scores[best]
            self.threshold = self._cut_at = float(scores.min())
        self._keys, self._scores, self._held = [keys], [scores], len(keys)

    def matches(self, clips: Clips) -> Matches:
        self._settle()
        a, b = np.divmod(self._keys[0], self._count)
        is_turned = (clips.video[b] < clips.video[a]) | (
            (clips.video[b] == clips.video[a]) & (clips.start_s[b] < clips.start_s[a])
        )
        a, b = np.where(is_turned, b, a), np.where(is_turned, a, b)
        return Matches(a, b, self._scores[0], self._crowded, self._cut_at)
