"""How well a library's neighbours agree with labels: precision at K and mean average precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.draws import sample_rows
from vmae_embed.errors import ProbeError, UsageError
from vmae_embed.evaluation.queries import video_codes
from vmae_embed.index import Index
from vmae_embed.intervals import Estimate, estimate
from vmae_embed.labels import Label, Matched, read_labels

AT = (1, 5, 10)
MEASURES = (*(f"precision@{k}" for k in AT), "mAP", "mAP@R")

# Scores computed at once: 64 MiB in float64.
_BLOCK = 2**23
_ROWS = 4096
# Of the largest score: a thousand times the rounding error of float64, which is no order.
_TIE = 2.0**-40


@dataclass(frozen=True, slots=True)
class Measured:
    """What some queries gave, on average.

    Attributes:
        queries: how many.
        measured: by name, those of `MEASURES`.
        chance: what a ranking at random would give on average, by the same names.
    """

    queries: int
    measured: dict[str, Estimate]
    chance: dict[str, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well neighbours agree with labels.

    Attributes:
        overall: of all queries.
        by_label: of those with each label, in the labels' order.
        clips: that have a label: what there was to be found.
        alone: labels on one video only, whose clips are found but cannot be asked for: with their own
            video left out, nothing is right.
    """

    overall: Measured
    by_label: dict[Label, Measured]
    clips: int
    alone: tuple[Label, ...]


def matched_labels(index: Index, path: Path, column: str = "label") -> tuple[list[Label | None], Matched]:
    """Labels from a file, one a row of the index, and what of the file and the library found no partner.

    Raises:
        UsageError: the file is not such a table, or contradicts itself; see `vmae_embed.labels.read_labels`.
        ProbeError: none of its rows fits a clip.
    """
    ids = index.clips.select(["clip_id", "video_id", "path"]).take(pa.array(index.live))
    matched = read_labels(path, label=column).match(*(ids[name].to_pylist() for name in ids.column_names))
    if not len(matched.labelled_rows):
        library = index.library.path
        raise ProbeError(f"{path}: none of its rows fits a clip of {library}; compare with `vmae-embed info {library}`")
    labels: list[Label | None] = [None] * index.clips.num_rows
    for row, label in zip(index.live.tolist(), matched.labels, strict=True):
        labels[row] = label
    return labels, matched


def agreement(index: Index, labels: Sequence[Label | None], *, queries: int = 1000, seed: int = 0) -> Agreement:
    """Rank all labelled clips by exact search for each of some, and compare their labels.

    A query's own video is left out. Clips that are equally near are ranked at random. With M clips
    left to rank, of which R have the query's label, found at the ranks r_1 < ... < r_R:

    * precision@K: clips of the label among the first K, over K (over M, if that is less).
    * mAP: the mean over queries of (1/R) sum_i i/r_i, the average precision over the whole ranking.
    * mAP@R: the mean of (1/R) sum i/r_i over those r_i <= R (Musgrave et al., *A Metric Learning
      Reality Check*, ECCV 2020).

    The memory that this takes does not grow with the queries; the time does, and with the labelled
    clips: 1,000 queries among 100,000 clips of 768 numbers take 20 seconds on two cores.

    Args:
        index: of the library.
        labels: ``(N,)``, one a row of the index; None for none.
        queries: how many labelled clips to ask for, drawn one a video first; all if there are fewer.
        seed: of the draw, of ties and of the intervals.

    Raises:
        UsageError: queries or seed is too small.
        ProbeError: fewer than two labels, or none that is on two videos.
    """
    if queries < 1 or seed < 0:
        raise UsageError(f"queries={queries}, seed={seed}: give queries from 1 and a seed from 0 on")
    rows = np.array([row for row in index.live if labels[row] is not None], dtype=np.int64)
    names = sorted({labels[row] for row in rows}, key=lambda name: (isinstance(name, str), name))
    if len(names) < 2:
        said = f"every labelled clip is {names[0]!r}" if names else "no clip has a label"
        raise ProbeError(f"{said}: neighbours cannot agree or differ; give clips of two labels or more")
    numbers = {name: number for number, name in enumerate(names)}
    classes = np.full(len(labels), -1)
    classes[rows] = [numbers[labels[row]] for row in rows]
    videos = video_codes(index)
    pairs = np.unique(np.stack([classes[rows], videos[rows]]), axis=1)
    is_alone = np.bincount(pairs[0], minlength=len(names)) < 2
    if is_alone.all():
        raise ProbeError("no label is on two videos, and a query's own video is left out; label more videos")

    rng = np.random.default_rng(seed)
    asked = sample_rows(rows[~is_alone[classes[rows]]], videos, queries, rng)
    found, by_chance = np.empty((len(asked), len(MEASURES))), np.empty((len(asked), len(MEASURES)))
    harmonic = np.cumsum(1 / np.arange(1, len(rows) + 1))
    for i, scores in enumerate(_rankable(index, asked, rows)):
        others = rng.permutation(np.flatnonzero(videos[rows] != videos[asked[i]]))
        order = others[np.argsort(-scores[others], kind="stable")]
        ranks = np.flatnonzero(classes[rows[order]] == classes[asked[i]]) + 1
        found[i] = _measure(ranks, len(order))
        by_chance[i] = _chance(len(ranks), len(order), harmonic)

    def summarise(which: NDArray[np.intp]) -> Measured:
        groups = videos[asked[which]]
        measured = {name: estimate(found[which, j], groups, seed=seed) for j, name in enumerate(MEASURES)}
        return Measured(len(which), measured, dict(zip(MEASURES, by_chance[which].mean(axis=0).tolist(), strict=True)))

    per_label = {name: np.flatnonzero(classes[asked] == numbers[name]) for name in names}
    return Agreement(
        overall=summarise(np.arange(len(asked))),
        by_label={name: summarise(which) for name, which in per_label.items() if len(which)},
        clips=len(rows),
        alone=tuple(name for name in names if is_alone[numbers[name]]),
    )


def _rankable(index: Index, asked: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Give, for each clip asked for, numbers ``(len(rows),)`` that grow with the score; ties are equal."""
    at_a_time = max(_BLOCK // len(rows), 1)
    for start in range(0, len(asked), at_a_time):
        queries = _prepared(index, asked[start : start + at_a_time])
        largest = (queries**2).sum(axis=1).max()
        scores = np.empty((len(queries), len(rows)))
        for first in range(0, len(rows), _ROWS):
            vectors = _prepared(index, rows[first : first + _ROWS])
            squares = (vectors**2).sum(axis=1)
            block = queries @ vectors.T
            if index.metric == "l2":
                # Minus the squared distance, plus what is the same for every clip.
                block = 2 * block - squares
            scores[:, first : first + _ROWS] = block
            largest = max(largest, squares.max())
        for row in scores:
            yield np.rint(row / (largest * _TIE) if largest > 0 else row).astype(np.int64)


def _prepared(index: Index, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    vectors = index.vectors(rows).astype(np.float64)
    if index.metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
    return vectors


def _measure(ranks: NDArray[np.intp], there: int) -> list[float]:
    """Each of `MEASURES`, from the ascending ranks of the right clips among those that are there."""
    precision = np.arange(1, len(ranks) + 1) / ranks
    at_r = precision[ranks <= len(ranks)].sum() / len(ranks)
    return [*(float((ranks <= k).sum() / min(k, there)) for k in AT), float(precision.mean()), float(at_r)]


def _chance(right: int, there: int, harmonic: NDArray[np.float64]) -> list[float]:
    """Give what each of `MEASURES` is on average over all orders of M clips, of which R are right.

    At each rank i a clip is right with probability R/M, and then each of the i-1 before it with
    (R-1)/(M-1): summed over the ranks that count, with H_n the harmonic numbers (Bestgen, *Exact
    Expected Average Precision of the Random Baseline*, 2015).
    """
    other = (right - 1) / (there - 1) if there > 1 else 0.0

    def over(ranks: int) -> float:
        return float((harmonic[ranks - 1] * (1 - other) + ranks * other) / there)

    return [*(right / there for _ in AT), over(there), over(right)]
