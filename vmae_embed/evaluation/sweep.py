"""Recall against speed of several kinds of index over one library."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.evaluation.intervals import Estimate, estimate
from vmae_embed.evaluation.queries import Queries
from vmae_embed.evaluation.retrieval import SPEED_AT, Speed, measure_speed, recall, true_scores
from vmae_embed.index import Effort, Index, IndexSpec
from vmae_embed.library import Library

# Below so many clips an exact search is as fast as any other.
SMALLEST = 10_000

# FAISS asks for 39 training vectors a cell (ClusteringParameters::min_points_per_centroid).
_TRAINING_A_CELL = 39
# Twice the cells that find so little more are the last.
_LEAST_GAIN = 0.0005
_MOST_TIMED_S = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """What one index gave with one number of cells visited.

    Attributes:
        kind: a key of `factories`.
        factory: FAISS's description.
        nprobe: cells visited; None for the exact index.
        candidates: compared exactly afterwards; None for the exact index.
        recall: at 10.
        speed: of 10 hits.
        bytes_per_vector: in the index; the stored vectors, for exact scores, are beside it.
        build_s: seconds that the index took to build.
    """

    kind: str
    factory: str
    nprobe: int | None
    candidates: int | None
    recall: Estimate
    speed: Speed
    bytes_per_vector: float
    build_s: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What several kinds of index gave.

    Attributes:
        points: of each kind in turn, by cells visited.
        clips: of the library.
        queries: that each was measured with.
        left_out: kinds that could not be built, and why.
    """

    points: tuple[Point, ...]
    clips: int
    queries: int
    left_out: dict[str, str]


def factories(clips: int, width: int) -> dict[str, str]:
    """Kinds of index to compare, and FAISS's description of each for a library of so many clips."""
    cells = 2 ** int(math.log2(max(min(4 * math.sqrt(clips), clips / _TRAINING_A_CELL), 1)))
    # As many bytes of codes a vector: half as many parts of twice the bits.
    return {
        "exact": "exact",
        "IVF + PQ, 4 bits (FastScan)": f"IVF{cells},PQ{_parts(width, 4)}x4fsr",
        "IVF + PQ, 8 bits": f"IVF{cells},PQ{_parts(width, 8)}",
        "IVF + SQ, 8 bits": f"IVF{cells},SQ8",
        "IVF, uncompressed": f"IVF{cells},Flat",
    }


def _parts(width: int, numbers: int) -> int:
    """Parts of a vector with so many numbers each, or more where that does not divide it."""
    return next(parts for parts in range(max(width // numbers, 1), 0, -1) if width % parts == 0)


def sweep(
    library: Library,
    draw: Callable[[Index], Queries],
    *,
    seed: int = 0,
    observe: Callable[[str], None] = lambda _: None,
) -> Sweep:
    """Build each of `factories` in a temporary folder, and measure it with ever more cells visited.

    The library's own index is neither used nor changed. Cells are doubled from one until that finds
    nothing more; candidates are those that the index was tuned to when it was built.

    Args:
        library: to build them of.
        draw: gives the queries for an index, the same for each.
        seed: of training.
        observe: told what is being built.

    Raises:
        SearchIndexError: the library holds no clips, or FAISS is not installed.
    """
    points: list[Point] = []
    left_out: dict[str, str] = {}
    truth, asked, clips = None, 0, len(library)
    for kind, factory in factories(clips, library.width).items():
        observe(f"{kind}: building {factory}, then searching it")
        with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
            try:
                index = Index.build(library, IndexSpec(factory=factory, seed=seed), folder=Path(folder))
            except UsageError as error:
                left_out[kind] = str(error)
                continue
            queries = draw(index)
            asked, clips = len(queries), len(index)
            if truth is None:
                truth = true_scores(index, queries, SPEED_AT)
            points += _curve(kind, factory, index, queries, truth)
    return Sweep(tuple(points), clips, asked, left_out)


def _curve(kind: str, factory: str, index: Index, queries: Queries, truth: NDArray[np.float64]) -> Iterator[Point]:
    """Measure one index with 1, 2, 4, ... cells visited; an exact one once."""
    tuned, before = index.effort, -1.0
    efforts: list[Effort | None] = [None]
    if tuned is not None:
        cells = int(factory.removeprefix("IVF").split(",")[0])
        efforts = [Effort(2**power, tuned.candidates) for power in range(cells.bit_length())]
    for effort in efforts:
        found = estimate(recall(index, queries, truth, SPEED_AT, effort=effort), queries.videos)
        yield Point(
            kind=kind,
            factory=factory,
            nprobe=None if effort is None else effort.nprobe,
            candidates=None if effort is None else effort.candidates,
            recall=found,
            speed=measure_speed(index, queries, most_s=_MOST_TIMED_S, effort=effort),
            bytes_per_vector=float(index.about["bytes_per_vector"]),
            build_s=float(index.about["build_s"]),
        )
        if found.value < before + _LEAST_GAIN:
            break
        before = found.value
