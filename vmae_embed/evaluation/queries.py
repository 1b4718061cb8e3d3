"""Which clips are asked for, and what each must not be answered with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.draws import sample_rows
from vmae_embed.errors import UsageError
from vmae_embed.index import Index

SELVES = ("video", "clip")


@dataclass(frozen=True, slots=True)
class Queries:
    """Q vectors to search for.

    Attributes:
        vectors: ``(Q, D)``.
        videos: ``(Q,)`` int64, equal for queries of one video: they are resampled together.
        marks: ``(N,)`` int64, one a row of the index.
        own: ``(Q,)`` int64; rows with this mark may not answer the query; -1 leaves none out.
    """

    vectors: NDArray[np.floating[Any]]
    videos: NDArray[np.int64]
    marks: NDArray[np.int64]
    own: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, which: slice | NDArray[np.int64]) -> Queries:
        """Some of them."""
        return Queries(self.vectors[which], self.videos[which], self.marks, self.own[which])


def video_codes(index: Index) -> NDArray[np.int64]:
    """``(N,)`` a number for each row of the index, equal for clips of one video."""
    encoded = index.clips["video_id"].combine_chunks().dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def sample_queries(index: Index, count: int = 1000, *, leave_out: str = "video", seed: int = 0) -> Queries:
    """Draw clips of a library to search for, one a video first.

    Args:
        index: of the library.
        count: how many; all clips if there are fewer.
        leave_out: what may not answer a query: its own ``video``, or the ``clip`` alone.
        seed: of the draw, from 0 on.

    Raises:
        UsageError: count or seed is too small, leave_out is neither, or nothing is left to be found.
    """
    if count < 1 or seed < 0:
        raise UsageError(f"queries={count}, seed={seed}: give queries from 1 and a seed from 0 on")
    if leave_out not in SELVES:
        raise UsageError(f"self={leave_out!r}: choose one of {', '.join(SELVES)}")
    live, videos = index.live, video_codes(index)
    if len(live) == 1:
        raise UsageError(f"{index.library.path}: holds one clip, and without itself none is left to find; add videos")
    if leave_out == "video" and len(np.unique(videos[live])) == 1:
        raise UsageError(
            f"{index.library.path}: its clips are of one video, and without that none is left to find; "
            "leave out the clip alone (--self clip), or add videos"
        )
    rows = sample_rows(live, videos, count, np.random.default_rng(seed))
    marks = videos if leave_out == "video" else np.arange(len(videos))
    return Queries(index.vectors(rows), videos[rows], marks, marks[rows])


def of_vectors(index: Index, vectors: NDArray[Any], name: str = "queries") -> Queries:
    """Search for vectors that are not in the library: nothing is left out.

    Args:
        index: that they will be searched in.
        vectors: ``(Q, D)``.
        name: what messages call them.

    Raises:
        UsageError: they are of another shape or not finite.
    """
    width = index.library.width
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors) or vectors.dtype.kind not in "fiu":
        raise UsageError(
            f"{name}: {vectors.dtype} of shape {vectors.shape}; this library takes numbers of shape (Q, {width})"
        )
    exact = vectors.astype(np.float32)
    if not np.isfinite(exact).all():
        raise UsageError(f"{name}: holds numbers that are not finite")
    nobody = np.full(len(exact), -1)
    return Queries(exact, np.arange(len(exact)), np.zeros(len(index.clips), dtype=np.int64), nobody)
