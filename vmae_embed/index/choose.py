"""Choosing an index for vectors: the first layout that reaches what is asked for, as measured on the vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index.ann import Effort, add, search
from vmae_embed.index.backend import gpu_knn
from vmae_embed.index.rows import Observer
from vmae_embed.index.similarity import exact_search
from vmae_embed.index.spec import IndexSpec, Layout, plan_layouts
from vmae_embed.index.train import train, training_size
from vmae_embed.index.tune import Measured, Trial, hold_out, time_searches

_BLOCK = 16384


@dataclass(frozen=True)
class Rows:
    """The vectors that an index is of.

    Attributes:
        vectors: ``(N, D)``, may be a memory map; of unit length under cosine.
        live: ascending rows that are to be found.
        videos: of each of those, a number of its video.
    """

    vectors: NDArray[Any]
    live: NDArray[np.int64]
    videos: NDArray[np.int32]


@dataclass(frozen=True)
class Chosen:
    """An index, how much of it is to be looked at, and what was measured with that.

    Attributes:
        index: of FAISS; its ids are row numbers. None: every search is exact.
        factory: FAISS's description of it.
        effort: None for an exact index.
        measured: recall; 1 for an exact index.
        latency_ms: of single searches, ``p50`` and ``p99``.
    """

    index: Any
    factory: str
    effort: Effort | None
    measured: Measured
    latency_ms: dict[str, float]

    def satisfies(self, spec: IndexSpec) -> bool:
        """Whether it reaches what is asked for."""
        return self.measured.recall >= spec.target_recall and not self.is_slow_for(spec)

    def is_slow_for(self, spec: IndexSpec) -> bool:
        """Whether it takes longer than is asked for."""
        return spec.latency_ms is not None and self.latency_ms["p50"] > spec.latency_ms


def choose(rows: Rows, spec: IndexSpec, *, gpu: bool = False, observe: Observer | None = None) -> Chosen:
    """Train, fill and tune what reaches what is asked for, or comes nearest to it.

    Raises:
        UsageError: what is asked for cannot be had with these vectors.
        SearchIndexError: FAISS is not installed.
    """
    best: Chosen | None = None
    for layout in plan_layouts(spec, len(rows.live), rows.vectors.shape[1]):
        tried = exact(rows, spec) if layout is None else _trained(layout, rows, spec, gpu=gpu, observe=observe)
        if tried.satisfies(spec):
            return tried
        if best is None or _standing(tried, spec) > _standing(best, spec):
            best = tried
    assert best is not None
    return best


def _standing(chosen: Chosen, spec: IndexSpec) -> tuple[bool, float]:
    return not chosen.is_slow_for(spec), chosen.measured.recall


def exact(rows: Rows, spec: IndexSpec) -> Chosen:
    """Choose to compare with every vector, and time that."""
    queries = np.asarray(rows.vectors[rows.live[:: max(len(rows.live) // 64, 1)]], dtype=np.float32)
    among = None if len(rows.live) == len(rows.vectors) else rows.live
    latency = time_searches(lambda query: exact_search(rows.vectors, query, spec.at, spec.metric, among), queries)
    return Chosen(None, "Flat", None, Measured(1.0, 0.0, 0), latency)


def _trained(layout: Layout, rows: Rows, spec: IndexSpec, *, gpu: bool, observe: Observer | None) -> Chosen:
    if observe is not None:
        observe(f"training {layout.factory}", 0, 1)
    rng = np.random.default_rng(spec.seed)
    # What recall is measured on is not trained on: queries to come were not either.
    others = np.setdiff1d(rows.live, hold_out(rows.live, rows.videos, spec.seed), assume_unique=True)
    candidates = others if len(others) >= layout.training() else rows.live
    chosen = np.sort(rng.permutation(candidates)[: training_size(layout, spec.train_size)])
    index = train(layout, np.asarray(rows.vectors[chosen], dtype=np.float32), spec.metric, spec.seed, gpu=gpu)
    add_rows(index, rows.vectors, rows.live, observe)
    return tune(Chosen(index, layout.factory, None, Measured(0, 0, 0), {}), rows, spec, gpu=gpu, observe=observe)


def add_rows(index: Any, vectors: NDArray[Any], rows: NDArray[np.int64], observe: Observer | None = None) -> None:
    """Add rows of vectors to an index of FAISS, block by block."""
    for start in range(0, len(rows), _BLOCK):
        if observe is not None:
            observe("adding vectors", start, len(rows))
        add(index, vectors, rows[start : start + _BLOCK])


def tune(
    chosen: Chosen,
    rows: Rows,
    spec: IndexSpec,
    *,
    keep: bool = False,
    gpu: bool = False,
    observe: Observer | None = None,
) -> Chosen:
    """Find the least effort with which an index reaches its recall, and measure it.

    Args:
        chosen: whose index it is.
        rows: that the index holds.
        spec: what is asked for.
        keep: stay with the present effort where that still reaches it.
        gpu: find the true nearest on a GPU.
        observe: is told of it.
    """
    if observe is not None:
        observe("measuring recall", 0, 1)
    knn = gpu_knn(spec.metric) if gpu else None
    trial = Trial(chosen.index, rows.vectors, rows.live, rows.videos, spec.metric, spec.at, spec.seed, knn)
    effort, measured = chosen.effort, None
    if keep and effort is not None:
        measured = trial.measure(effort)
    if effort is None or measured is None or measured.recall < spec.target_recall:
        effort, measured = trial.tune(spec.target_recall)
    queries = np.asarray(rows.vectors[trial.queries], dtype=np.float32)
    latency = _time(chosen.index, rows, queries, effort, spec)
    full = effort, measured, latency
    # What is asked of the latency goes first: recall is what fits into it.
    for _ in range(4):
        if spec.latency_ms is None or latency["p50"] <= spec.latency_ms:
            break
        effort, measured = trial.most_within(effort, 0.9 * spec.latency_ms / latency["p50"])
        latency = _time(chosen.index, rows, queries, effort, spec)
    if spec.latency_ms is not None and latency["p50"] > spec.latency_ms:
        effort, measured, latency = full  # not to be had by any effort: recall is not given up for nothing
    return replace(chosen, effort=effort, measured=measured, latency_ms=latency)


def _time(index: Any, rows: Rows, queries: NDArray[np.float32], effort: Effort, spec: IndexSpec) -> dict[str, float]:
    return time_searches(
        lambda query: search(index, rows.vectors, query, spec.at, spec.metric, effort, spec.at), queries
    )
