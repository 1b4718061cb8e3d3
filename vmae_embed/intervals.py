"""Figures, and how far other videos would have moved them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_LEVEL = 0.95
# Numbers drawn at a time: 64 MB of them.
_BLOCK = 2**23


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, such as a mean over queries.

    Attributes:
        value: the figure.
        low: where its 95% interval begins; None where all queries are of one video.
        high: where it ends.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4f} to {self.high:.4f})"
        return f"{self.value:.4f}{interval}"


def estimate(values: NDArray[np.floating[Any]], videos: NDArray[np.int64], *, seed: int = 0) -> Estimate:
    """Average over queries, with a 95% bootstrap interval over their videos.

    Clips of one video resemble each other: to resample them one by one would count the same
    evidence several times. So whole videos are drawn, as many as there are, with replacement, 2,000
    times, and the interval is from the 2.5th to the 97.5th percentile of the means (Efron's
    percentile bootstrap; Davison and Hinkley, *Bootstrap Methods*, 1997, section 3.8, for clusters).
    Where every query gives the same value the interval has no width, which is not certainty.

    Args:
        values: ``(Q,)``, one a query; at least one.
        videos: ``(Q,)``, what each query is resampled with.
        seed: of the resampling.
    """
    mean = float(np.mean(values, dtype=np.float64))
    _, codes = np.unique(videos, return_inverse=True)
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    n_videos = len(sums)
    if n_videos == 1:
        return Estimate(mean, None, None)
    rng = np.random.default_rng(seed)
    means = []
    at_a_time = max(_BLOCK // n_videos, 1)
    for start in range(0, _RESAMPLES, at_a_time):
        drawn = rng.integers(0, n_videos, (min(at_a_time, _RESAMPLES - start), n_videos))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return with_interval(mean, np.concatenate(means))


def with_interval(value: float, drawn: NDArray[np.floating[Any]]) -> Estimate:
    """Give a figure the 95% percentile interval of what it was in resamples ``(R,)``; none, if there are none."""
    if not len(drawn):
        return Estimate(value, None, None)
    outside = (1 - _LEVEL) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Estimate(value, float(low), float(high))
