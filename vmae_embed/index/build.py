"""Choosing, training and tuning a FAISS index over vectors on disk."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import SearchIndexError, UsageError

KINDS = ("auto", "exact", "ivfpq")

# FAISS asks for 39 training vectors a cell (ClusteringParameters::min_points_per_centroid).
_TRAINING_A_CELL = 39
# Below this, an exact search of 768 numbers a vector takes a few milliseconds on one core.
_SMALLEST_IVFPQ = 256 * _TRAINING_A_CELL
_MOST_TRAINING_A_CELL = 64
# 4-bit codes have 16 centroids each.
_TRAINING_CODES = 16 * _TRAINING_A_CELL

# PQ candidates re-ranked exactly for each hit asked for. Of 4-bit codes with 4 numbers each, k x 8
# gave recall 0.998 on 100,000 clustered vectors and k x 16 gave 0.997 on a million; tight clusters
# need more.
_CANDIDATES_A_HIT = (16, 64)

_RECALL_AT = 10
_RECALL_AIMED_AT = 0.99
_TUNING_QUERIES = 256
_BLOCK = 16384


@dataclass(frozen=True)
class Built:
    """An index and what was measured of it.

    Attributes:
        index: of FAISS; its ids are row numbers.
        factory: FAISS's description of it.
        nprobe: cells to visit; None for an exact index.
        candidates_a_hit: PQ candidates to re-rank for each hit asked for; None for an exact index.
        recall: share of the true 10 nearest found, on queries that were not in the index. Of an
            exact index: of the IVF-PQ that it replaces because that fell short; else None.
    """

    index: Any
    factory: str
    nprobe: int | None
    candidates_a_hit: int | None
    recall: float | None


def import_faiss() -> Any:
    """Import FAISS, once it is clear which one.

    Raises:
        SearchIndexError: none is installed, or two that overwrite each other.
    """
    wheels = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12") if _is_installed(name)]
    if len(wheels) > 1:
        raise SearchIndexError(
            f"{' and '.join(wheels)} are both installed and overwrite each other's files: "
            f"run `pip uninstall {' '.join(wheels)}`, then install one of them"
        )
    try:
        import faiss
    except ImportError as error:
        raise SearchIndexError(
            "FAISS is not installed: run `pip install 'vmae-embed[cpu]'`, or 'vmae-embed[gpu]'"
        ) from error
    return faiss


def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def build_index(vectors: NDArray[Any], kind: str = "auto", nlist: int | None = None) -> Built:
    """Build an index for inner products.

    Args:
        vectors: ``(N, D)``, of unit length; may be a memory map.
        kind: one of `KINDS`; auto is IVF-PQ where there are enough vectors to train it.
        nlist: cells of an IVF-PQ; None chooses.

    Raises:
        UsageError: no such kind, or more cells than the vectors can train.
        SearchIndexError: FAISS is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"factory={kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "exact" and nlist is not None:
        raise UsageError("an exact index has no cells: give no --nlist, or --factory ivfpq")
    count = len(vectors)
    most = count // _TRAINING_A_CELL
    if nlist is not None and not 1 <= nlist <= most:
        raise UsageError(
            f"nlist={nlist} needs at least {nlist * _TRAINING_A_CELL:,} training vectors ({_TRAINING_A_CELL} a cell); "
            f"the library holds {count:,}. Use --nlist {max(most, 1)} or fewer, or --factory auto"
        )
    if (kind == "ivfpq" or nlist is not None) and count < _TRAINING_CODES:
        raise UsageError(
            f"an IVF-PQ index needs at least {_TRAINING_CODES} training vectors for its codes; "
            f"the library holds {count:,}. Use --factory auto"
        )
    faiss = import_faiss()
    if kind == "exact" or (kind == "auto" and nlist is None and count < _SMALLEST_IVFPQ):
        return _exact(faiss, vectors)
    built = _ivfpq(faiss, vectors, nlist or _choose_nlist(count))
    if kind == "auto" and nlist is None and built.recall is not None and built.recall < _RECALL_AIMED_AT:
        return _exact(faiss, vectors, built.recall)
    return built


def _exact(faiss: Any, vectors: NDArray[Any], recall: float | None = None) -> Built:
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), _BLOCK):
        index.add(_float32(vectors[start : start + _BLOCK]))
    return Built(index, "Flat", None, None, recall)


def _choose_nlist(count: int) -> int:
    """A power of two near 4 sqrt(N), as FAISS's guidelines have it, that N vectors can train."""
    most = max(min(4 * count**0.5, count / _TRAINING_A_CELL), 1)
    return int(2 ** int(np.log2(most)))


def _ivfpq(faiss: Any, vectors: NDArray[Any], nlist: int) -> Built:
    count, width = vectors.shape
    # 4-bit codes of 4 numbers each, of residuals, packed for FAISS's SIMD scan.
    parts = next(parts for parts in range(width // 4 or 1, 0, -1) if width % parts == 0)
    factory = f"IVF{nlist},PQ{parts}x4fsr"
    index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1234
    order = np.random.default_rng(0).permutation(count)
    index.train(_float32(vectors[np.sort(order[: max(nlist * _MOST_TRAINING_A_CELL, 10 * _TRAINING_CODES)])]))

    # Queries that are in the index find themselves, which says little: these are added last.
    held_out = np.sort(order[: min(_TUNING_QUERIES, count // 10)])
    is_held_out = np.zeros(count, dtype=bool)
    is_held_out[held_out] = True
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        _add(index, vectors, rows[~is_held_out[rows]])
    nprobe, candidates, recall = _tune(faiss, index, vectors, held_out)
    _add(index, vectors, held_out)
    return Built(index, factory, nprobe, candidates, recall)


def _tune(faiss: Any, index: Any, vectors: NDArray[Any], held_out: NDArray[np.int64]) -> tuple[int, int, float]:
    """Find the fewest cells and candidates that reach the recall aimed at, or come nearest to it."""
    queries = _float32(vectors[held_out])
    _, truth = exact_search(vectors, queries, _RECALL_AT, leave_out=held_out)
    nprobe, candidates, recall = 0, 0, 0.0
    for candidates in _CANDIDATES_A_HIT:
        nprobe = min(8, index.nlist)
        while True:
            _, found = ivfpq_search(faiss, index, vectors, queries, _RECALL_AT, nprobe, candidates)
            hits = [len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True)]
            recall = float(np.mean(hits)) / min(_RECALL_AT, truth.shape[1])
            if recall >= _RECALL_AIMED_AT:
                return nprobe, candidates, recall
            if nprobe == index.nlist:
                break
            nprobe = min(nprobe * 2, index.nlist)
    return nprobe, candidates, recall


def _add(index: Any, vectors: NDArray[Any], rows: NDArray[np.int64]) -> None:
    if len(rows):
        index.add_with_ids(_float32(vectors[rows]), rows)


def ivfpq_search(
    faiss: Any,
    index: Any,
    vectors: NDArray[Any],
    queries: NDArray[np.floating[Any]],
    k: int,
    nprobe: int,
    candidates_a_hit: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search an IVF-PQ index and re-rank its candidates by their stored vectors.

    Returns:
        Cosine similarities and rows, each ``(Q, K)``, best first; row -1 and score -inf where
        there are fewer.
    """
    parameters = faiss.SearchParametersIVF(nprobe=nprobe)
    # As many for a single hit as the recall was measured with.
    wanted = min(max(k, _RECALL_AT) * candidates_a_hit, len(vectors))
    _, candidates = index.search(_float32(normalise(queries)), wanted, params=parameters)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for i, found in enumerate(candidates):
        found = np.sort(found[found >= 0])  # in order, so that a memory map is read forward
        exact = _cosines(queries[i : i + 1], vectors[found])[0]
        best = np.argsort(-exact, kind="stable")[:k]
        scores[i, : len(best)], rows[i, : len(best)] = exact[best], found[best]
    return scores, rows


def exact_search(
    vectors: NDArray[Any],
    queries: NDArray[np.floating[Any]],
    k: int,
    leave_out: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compare every vector with every query, block by block.

    Args:
        vectors: ``(N, D)``, may be a memory map.
        queries: ``(Q, D)``.
        k: neighbours.
        leave_out: rows that are not to be found.

    Returns:
        Cosine similarities and rows, each ``(Q, min(k, N))``, best first.
    """
    scores = np.empty((len(queries), 0))
    rows = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = _cosines(queries, vectors[start : start + _BLOCK])
        if leave_out is not None:
            block[:, leave_out[(leave_out >= start) & (leave_out < start + _BLOCK)] - start] = -np.inf
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, rows = np.hstack([scores, block]), np.hstack([rows, numbers])
        if scores.shape[1] > k:
            kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1).astype(np.float32), np.take_along_axis(rows, order, 1)


def normalise(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale rows to unit length; a row of zeros stays."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = exact / np.where(lengths > 0, lengths, 1)
    return scaled


def _cosines(queries: NDArray[np.floating[Any]], vectors: NDArray[Any]) -> NDArray[np.float64]:
    """``(Q, N)``, in float64 and with the lengths as stored.

    Float32 sums put near-duplicates above a clip itself; here itself is 1 and all others are below.
    """
    cosines: NDArray[np.float64] = np.clip(normalise(queries) @ normalise(vectors).T, -1, 1)
    return cosines


def _float32(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors, dtype=np.float32)
