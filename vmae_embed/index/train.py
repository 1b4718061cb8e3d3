"""Training an IVF index: its cells in two levels where they are many, then its codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index.backend import import_faiss
from vmae_embed.index.spec import Layout

# Training vectors a cell: more gain nothing measurable, and cost time.
_TRAINING_A_CELL = 64
_LEAST_TRAINING = 10_000
# From here on, clustering in two levels takes a tenth of the time.
_TWO_LEVELS_FROM = 1024
_ITERATIONS = 10
# Lloyd's iterations over all cells that make up for most of what two levels lose.
_REFINING = 2


def training_size(layout: Layout, train_size: int | None) -> int:
    """Vectors to train a layout on, where there are as many."""
    return train_size or max(layout.nlist * _TRAINING_A_CELL, layout.training(), _LEAST_TRAINING)


def train(layout: Layout, sample: NDArray[np.float32], metric: str, seed: int = 0, *, gpu: bool = False) -> Any:
    """Make an index that is trained and empty.

    Args:
        layout: of the index.
        sample: ``(N, D)`` to train on; of unit length under cosine.
        metric: one of `vmae_embed.index.spec.METRICS`.
        seed: of the clustering.
        gpu: cluster on a GPU.

    Returns:
        An index of FAISS.
    """
    faiss = import_faiss()
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(sample.shape[1], layout.factory, kind)
    index.cp.seed = seed + 1  # FAISS takes 0 for a seed as good as any, too, but negative ones for the clock
    # A graph over the centroids is built from all of them.
    if layout.nlist >= _TWO_LEVELS_FROM or gpu or layout.links:
        index.quantizer.add(_cluster(faiss, sample, layout.nlist, metric, seed, gpu=gpu))
        index.quantizer.is_trained = True
    if hasattr(index, "pq"):
        index.pq.cp.seed = seed + 1
    index.train(sample)
    return index


def unpack(index: Any) -> Any:
    """Give an index whose parts FAISS can merge: merging packed codes (FastScan) corrupts memory in FAISS 1.15.

    Args:
        index: of FAISS, trained and empty; it must outlive the other.
    """
    faiss = import_faiss()
    if not isinstance(index, faiss.IndexIVFPQFastScan):
        return index
    plain = faiss.IndexIVFPQ(index.quantizer, index.d, index.nlist, index.pq.M, index.pq.nbits, index.metric_type)
    plain.own_fields = False
    plain.by_residual, plain.pq, plain.is_trained = index.by_residual, index.pq, True
    return plain


def pack(index: Any, factory: str) -> Any:
    """Give the index back that `unpack` was given, with what has been added."""
    faiss = import_faiss()
    if not factory.endswith(("x4fs", "x4fsr")):
        return index
    packed = faiss.IndexIVFPQFastScan(index)
    # The centroids stay where they are, in an index of their own.
    index.own_fields, packed.own_fields = False, True
    return packed


def _cluster(
    faiss: Any, sample: NDArray[np.float32], nlist: int, metric: str, seed: int, *, gpu: bool
) -> NDArray[np.float32]:
    """Centroids ``(nlist, D)``."""
    if gpu or nlist < _TWO_LEVELS_FROM:
        return _kmeans(faiss, sample, nlist, metric, seed, gpu=gpu)
    coarse = _kmeans(faiss, sample, int(nlist**0.5), metric, seed)
    assigned = _assign(faiss, sample, coarse, metric)
    parts = [sample[assigned == cell] for cell in range(len(coarse))]
    shares = _apportion(np.array([len(part) for part in parts]), nlist)
    fine = [_kmeans(faiss, part, int(share), metric, seed) for part, share in zip(parts, shares, strict=True) if share]
    start = np.concatenate(fine)
    return _kmeans(faiss, sample, nlist, metric, seed, iterations=_REFINING, start=start)


def _kmeans(
    faiss: Any,
    vectors: NDArray[np.float32],
    count: int,
    metric: str,
    seed: int,
    *,
    gpu: bool = False,
    iterations: int = _ITERATIONS,
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=iterations,
        seed=seed + 1,
        spherical=metric != "l2",
        gpu=gpu,
        min_points_per_centroid=1,  # what there must be has been checked; small parts are no fault
        max_points_per_centroid=max(len(vectors), 1),
    )
    means.train(vectors, init_centroids=start)
    centroids: NDArray[np.float32] = means.centroids
    return centroids


def _assign(faiss: Any, vectors: NDArray[np.float32], centroids: NDArray[np.float32], metric: str) -> NDArray[np.int64]:
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    _, nearest = faiss.knn(vectors, centroids, 1, metric=kind)
    cells: NDArray[np.int64] = nearest[:, 0]
    return cells


def _apportion(sizes: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """Share cells out among parts by their sizes: one at least to each that holds any, and none more than it holds."""
    shares: NDArray[np.int64] = np.minimum(np.maximum((sizes * cells) // max(sizes.sum(), 1), sizes > 0), sizes)
    while shares.sum() < cells:
        shares[np.where(shares < sizes, sizes / np.maximum(shares, 1), -np.inf).argmax()] += 1
    while shares.sum() > cells:
        shares[np.where(shares > 1, sizes / np.maximum(shares, 1), np.inf).argmin()] -= 1
    return shares
