"""Recall against speed of several kinds of index over one library."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.evaluation.queries import Queries
from vmae_embed.evaluation.retrieval import SPEED_AT, Speed, measure_speed, recall, true_scores
from vmae_embed.index import Effort, Index, IndexSpec, Observer
from vmae_embed.index.spec import EXACT_BELOW, parse_factory, plan_layouts
from vmae_embed.intervals import Estimate, estimate
from vmae_embed.library import Library

# Below so many clips an exact search is as fast as anyone needs.
SMALLEST = EXACT_BELOW

# What the candidates are tuned for: fewer would hold a curve down however many cells are visited.
_TARGET_RECALL = 0.99
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
        candidates: compared in full for each hit asked for; None for the exact index.
        recall: at 10.
        speed: of 10 hits.
        bytes_per_vector: of the index in memory; the stored vectors, for exact scores, are on disk beside it.
        build_s: seconds that the index took to build and tune.
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
    """Kinds of IVF index to compare, and FAISS's description of each, all with the same cells.

    Raises:
        UsageError: there are too few clips to train any.
    """
    (layout, *_) = plan_layouts(IndexSpec(factory="ivfpq"), clips, width)
    assert layout is not None
    cells = layout.factory.removesuffix(f",{layout.code}")
    # As many bytes as the 4-bit codes have: half as many parts, of twice the bits.
    parts = next(parts for parts in range(max(width // 8, 1), 0, -1) if width % parts == 0)
    return {
        "IVF + PQ, 4 bits (FastScan)": layout.factory,
        "IVF + PQ, 8 bits": f"{cells},PQ{parts}",
        "IVF + SQ, 8 bits": f"{cells},SQ8",
        "IVF, uncompressed": f"{cells},Flat",
    }


def sweep(
    library: Library, draw: Callable[[Index], Queries], *, seed: int = 0, observe: Observer | None = None
) -> Sweep:
    """Build an exact index and each of `factories`, and measure those with ever more cells visited.

    They are built in temporary folders; the library's own index is neither used nor changed. Cells
    are doubled from one until that finds nothing more; candidates are those that the index was tuned
    to when it was built, for recall@10 of 0.99.

    Args:
        library: to build them of; under the metric of its own index.
        draw: gives the queries for an index, the same for each.
        seed: of training.
        observe: is told what is being done.

    Raises:
        SearchIndexError: the library holds no clips, or FAISS is not installed.
        UsageError: draw cannot give queries.
    """
    points: list[Point] = []
    left_out: dict[str, str] = {}
    kinds = {"exact": "exact"}
    try:
        kinds |= factories(len(library), library.width)
    except UsageError as error:
        left_out["IVF"] = str(error)
    metric = Index.last_spec(library).metric
    truth, asked, clips = None, 0, 0
    for kind, factory in kinds.items():
        spec = IndexSpec(factory=factory, target_recall=_TARGET_RECALL, at=SPEED_AT, metric=metric, seed=seed)
        with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
            try:
                index = Index.build(library, spec, folder=Path(folder), observe=observe)
            except UsageError as error:
                left_out[kind] = str(error)
                continue
            queries = draw(index)
            asked, clips = len(queries), len(index)
            if truth is None:
                truth = true_scores(index, queries, SPEED_AT)
            for point in _curve(kind, factory, index, queries, truth):
                points.append(point)
                if observe is not None:
                    observe(f"measuring {factory}", 0, 1)
    return Sweep(tuple(points), clips, asked, left_out)


def _curve(kind: str, factory: str, index: Index, queries: Queries, truth: NDArray[np.float64]) -> Iterator[Point]:
    """Measure one index with 1, 2, 4, ... cells visited; an exact one once."""
    efforts: list[Effort | None] = [None]
    layout, tuned = parse_factory(factory), index.effort
    if layout is not None and tuned is not None:
        efforts = [Effort(2**power, tuned.candidates) for power in range(layout.nlist.bit_length())]
    before = -1.0
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
            build_s=float(index.about["made"]["seconds"]),
        )
        if found.value < before + _LEAST_GAIN:
            break
        before = found.value
