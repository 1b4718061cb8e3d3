"""How good answers are: accuracies, F1, calibration, each with an interval over videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.intervals import Estimate, with_interval
from vmae_embed.probing.protocol import Answers
from vmae_embed.probing.rows import Rows

MEASURES = ("top1", "top5", "mean_per_class", "macro_f1", "ece")
RESAMPLES = 1000
_FLIPS = 10_000
# Guo et al., *On Calibration of Modern Neural Networks*, 2017.
_BINS = 15


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers beside the truth, a row for each clip, or for each video.

    Attributes:
        truth: ``(n,)`` places in the classes.
        probabilities: ``(n, K)``.
        videos: ``(n,)`` the number of each row's video.
        repeats: ``(n,)`` from 0.
        majority: ``(n,)`` the answer of the majority baseline.
        rows: ``(n,)`` the row of the library's clips, of a video the first.
    """

    truth: NDArray[np.intp]
    probabilities: NDArray[np.float64]
    videos: NDArray[np.int64]
    repeats: NDArray[np.intp]
    majority: NDArray[np.intp]
    rows: NDArray[np.intp]

    @property
    def predicted(self) -> NDArray[np.intp]:
        """``(n,)`` the most probable class, of equal ones the first."""
        best: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return best


def of_clips(rows: Rows, answers: Answers) -> Judged:
    """Each clip by itself."""
    place = {label: code for code, label in enumerate(answers.classes)}
    truth = np.array([place[rows.truth[row]] for row in answers.tested], dtype=np.intp)
    videos = rows.videos[answers.tested]
    return Judged(truth, answers.probabilities, videos, answers.repeats, answers.majority, answers.tested)


def of_videos(clips: Judged) -> Judged:
    """Each video by the mean of its clips' probabilities.

    A video whose clips have several labels counts once for each of them, with those clips alone.
    """
    keys = np.stack([clips.repeats, clips.videos, clips.truth])
    _, first, which, counts = np.unique(keys, axis=1, return_index=True, return_inverse=True, return_counts=True)
    summed = np.zeros((len(first), clips.probabilities.shape[1]))
    np.add.at(summed, which.ravel(), clips.probabilities)
    return Judged(
        clips.truth[first],
        summed / counts[:, None],
        clips.videos[first],
        clips.repeats[first],
        clips.majority[first],
        clips.rows[first],
    )


def measure(judged: Judged, *, seed: int = 0) -> dict[str, Estimate]:
    """Each of `MEASURES`.

    * ``top1``, ``top5``: share of rows whose class is the most probable, or among the five that are.
    * ``mean_per_class``: mean over the classes that are tested of the share of their rows that are right.
    * ``macro_f1``: mean over the same classes of the harmonic mean of precision and recall.
    * ``ece``: expected calibration error, 15 bins of equal width.

    Intervals are from the 2.5th to the 97.5th percentile over 1,000 draws of as many videos as there
    are, with replacement (percentile bootstrap by cluster). Repeats are averaged before that.
    """
    n_classes = judged.probabilities.shape[1]
    predicted, confidence = judged.predicted, judged.probabilities.max(axis=1)
    own = judged.probabilities[np.arange(len(judged.truth)), judged.truth]
    # Ahead of the truth: those more probable, and those as probable that come before it.
    ahead = (judged.probabilities > own[:, None]).sum(axis=1)
    tied = (judged.probabilities == own[:, None]) & (np.arange(n_classes) < judged.truth[:, None])
    in_five = ahead + tied.sum(axis=1) < 5
    right = predicted == judged.truth
    bins = np.minimum((confidence * _BINS).astype(np.intp), _BINS - 1)

    def figures(weights: NDArray[np.float64]) -> list[float]:
        total = weights.sum()
        true = np.bincount(judged.truth, weights, n_classes)
        said = np.bincount(predicted, weights, n_classes)
        hits = np.bincount(judged.truth, weights * right, n_classes)
        is_tested = true > 0
        error = np.abs(np.bincount(bins, weights * (right - confidence), _BINS)).sum()
        return [
            float((weights * right).sum() / total),
            float((weights * in_five).sum() / total),
            float((hits[is_tested] / true[is_tested]).mean()),
            float((2 * hits[is_tested] / (true + said)[is_tested]).mean()),
            float(error / total),
        ]

    values = figures(np.ones(len(right)))
    drawn = np.array(resample(judged.videos, figures, seed=seed)).reshape(-1, len(MEASURES))
    found = zip(MEASURES, values, drawn.T, strict=True)
    return {name: with_interval(value, resampled) for name, value, resampled in found}


def resample(
    videos: NDArray[np.int64], figures: Callable[[NDArray[np.float64]], list[float]], *, seed: int = 0
) -> list[list[float]]:
    """Give what ``figures`` says of the rows' weights, ``(n,)``, in each of 1,000 draws of videos; nothing of one."""
    _, codes = np.unique(videos, return_inverse=True)
    n_videos = int(codes.max()) + 1
    if n_videos == 1:
        return []
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, n_videos, n_videos), minlength=n_videos) for _ in range(RESAMPLES))
    return [figures(draw[codes].astype(np.float64)) for draw in draws]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one library's answers are right more often than another's, video by video.

    Attributes:
        value: difference of the top-1 accuracies, with its interval.
        p: of a difference as large, were signs drawn at random: a paired permutation test over videos.
        videos: compared.
    """

    value: Estimate
    p: float
    videos: int


def compare(ours: Judged, theirs: Judged, *, seed: int = 0) -> Difference:
    """Compare answers about the same rows, in the same order.

    Args:
        ours: about some rows.
        theirs: about the same: ``truth``, ``videos`` and ``repeats`` are equal.
        seed: of the draws.
    """
    gain = (ours.predicted == ours.truth).astype(np.float64) - (theirs.predicted == theirs.truth)
    _, codes = np.unique(ours.videos, return_inverse=True)
    sums, counts = np.bincount(codes, gain), np.bincount(codes)
    drawn = resample(ours.videos, lambda weights: [float((weights * gain).sum() / weights.sum())], seed=seed)
    rng = np.random.default_rng(seed)
    flipped = [abs(float(rng.choice([-1.0, 1.0], len(sums)) @ sums)) for _ in range(_FLIPS)]
    # A sum in another order may be smaller by a rounding error.
    as_large = sum(size >= abs(sums.sum()) - 1e-9 for size in flipped)
    return Difference(
        with_interval(float(gain.mean()), np.array(drawn).ravel()),
        (1 + as_large) / (1 + _FLIPS),
        len(counts),
    )
