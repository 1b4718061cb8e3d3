"""The live clips of a library in columns, and their embeddings as duplicates compare them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vmae_embed.index import Index

# Clips of touching windows end where the next begin, give or take a millisecond.
TOLERANCE_S = 0.001

# Vectors that are read at once.
_BLOCK = 8192

# Embeddings this far from their mean, of length 1 before, differ by rounding alone.
_NOISE = 1e-4


@dataclass(frozen=True)
class Clips:
    """The live clips of an index: clip i of N, of V videos, is its row ``rows[i]``.

    Attributes:
        rows: ``(N,)`` int64, ascending.
        video: ``(N,)`` int64, places in ``video_ids``.
        start_s: ``(N,)`` float64, seconds.
        end_s: ``(N,)`` float64, seconds.
        video_ids: V of them, ascending.
        count: ``(V,)`` int64, clips of each video.
        hop_s: ``(V,)`` float64, seconds from a clip of each to its next, the median.
    """

    rows: NDArray[np.int64]
    video: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    video_ids: list[str]
    count: NDArray[np.int64]
    hop_s: NDArray[np.float64]

    @classmethod
    def of(cls, index: Index) -> Clips:
        """Read the live clips of an index."""
        rows = index.live
        table = index.clips.select(["video_id", "start_s", "end_s"]).take(pa.array(rows))
        ids, video = np.unique(np.asarray(table["video_id"].to_pylist(), dtype=object), return_inverse=True)
        start, end = (np.asarray(pc.fill_null(table[name], 0.0), np.float64) for name in ("start_s", "end_s"))
        video = video.astype(np.int64).ravel()
        count = np.bincount(video, minlength=len(ids)).astype(np.int64)
        return cls(rows, video, start, end, ids.tolist(), count, _hops(video, start, end, count))

    def __len__(self) -> int:
        return len(self.rows)

    def overlap(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether clips ``a`` and ``b``, each ``(P,)``, are the same or show a common moment of one video."""
        meet = (self.start_s[a] < self.end_s[b] - TOLERANCE_S) & (self.start_s[b] < self.end_s[a] - TOLERANCE_S)
        return np.asarray((a == b) | (meet & (self.video[a] == self.video[b])))


def _hops(
    video: NDArray[np.int64], start: NDArray[np.float64], end: NDArray[np.float64], count: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(V,)``: the median step of each video; a lone clip's length; a second where clips have no times."""
    order = np.lexsort((start, video))
    steps, of = np.diff(start[order]), video[order][1:]
    inside = (of == video[order][:-1]) & (steps > TOLERANCE_S)
    steps, of = steps[inside], of[inside]
    hops = np.zeros(len(count))
    np.maximum.at(hops, video, end - start)
    known, first, many = np.unique(of, return_index=True, return_counts=True)
    if len(known):
        sorted_steps = steps[np.lexsort((steps, of))]
        hops[known] = sorted_steps[first + many // 2]
    return np.where(hops > TOLERANCE_S, hops, 1.0)


class Vectors:
    """Embeddings to be compared: of unit length, if wished after the library's mean was taken off.

    VideoMAE's embeddings share a strong mean, beside which what tells clips apart is small.
    """

    def __init__(self, index: Index, clips: Clips, *, center: bool) -> None:
        self._index = index
        self._rows = clips.rows
        self._mean: NDArray[np.float32] | None = None
        if center:
            total = np.zeros(index.library.width, np.float64)
            for start in range(0, len(clips), _BLOCK):
                total += _unit(index.vectors(clips.rows[start : start + _BLOCK])).sum(axis=0, dtype=np.float64)
            self._mean = np.asarray(total / len(clips), np.float32)

    def stored(self, clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(B, D)``, as the index searches them."""
        return self._index.vectors(self._rows[clips])

    def __call__(self, clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(B, D)``, or ``(B, D + 1)`` once centred: their inner products are the scores."""
        vectors = _unit(self.stored(clips))
        if self._mean is None:
            return vectors
        # The constant makes clips alike that differ from the mean, and so from each other, by rounding alone.
        noise = np.full((len(vectors), 1), _NOISE, np.float32)
        return _unit(np.hstack([vectors - self._mean, noise]))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
