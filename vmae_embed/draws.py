"""Drawing clips so that a video with many of them does not stand for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sample_rows(
    rows: NDArray[np.int64], videos: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw rows: a random clip of each video, then a second of each, until there are enough.

    Args:
        rows: to draw from.
        videos: ``(N,)``, indexed by row.
        count: how many; all if there are fewer.
        rng: that draws.

    Returns:
        Ascending rows.
    """
    shuffled = rng.permutation(rows)
    by_video = np.argsort(videos[shuffled], kind="stable")
    firsts = np.flatnonzero(np.diff(videos[shuffled[by_video]], prepend=-1))
    # The how-manieth of its video each clip is, in the order drawn.
    turn = np.empty(len(rows), dtype=np.int64)
    turn[by_video] = np.arange(len(rows)) - np.repeat(firsts, np.diff(firsts, append=len(rows)))
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:count]])
