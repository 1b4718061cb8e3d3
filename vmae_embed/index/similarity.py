"""Similarities of vectors, exact: what every answer's scores are, and the truth that recall is measured by.

Scores are higher for what is nearer: cosine similarity, inner product, or minus the Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index.backend import Knn

_BLOCK = 16384
_QUERIES = 1024
_KNN_BLOCK = 262_144
_ROOM = 32


def normalise(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale rows to unit length; a row of zeros stays."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = exact / np.where(lengths > 0, lengths, 1)
    return scaled


def score(query: NDArray[np.float64], vectors: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Compare one query with vectors, in float64.

    Float32 sums put near-duplicates above a clip itself; here itself is 1 and all others are below.

    Args:
        query: ``(D,)``.
        vectors: ``(N, D)``.
        metric: one of `vmae_embed.index.spec.METRICS`.

    Returns:
        ``(N,)``.
    """
    exact = vectors.astype(np.float64)
    if metric == "l2":
        distances: NDArray[np.float64] = -np.sqrt(np.square(exact - query).sum(axis=1))
        return distances
    products: NDArray[np.float64] = exact @ query
    if metric == "ip":
        return products
    lengths = np.sqrt(np.einsum("nd,nd->n", exact, exact) * np.square(query).sum())
    cosines: NDArray[np.float64] = np.clip(products / np.where(lengths > 0, lengths, 1), -1, 1)
    return cosines


def rank(
    query: NDArray[np.floating[Any]], vectors: NDArray[Any], rows: NDArray[np.int64], k: int, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rank some rows by their similarity to a query ``(D,)``.

    Returns:
        Scores and rows of the best k, or of all if there are fewer; equal scores in the order of the rows.
    """
    if 2 * k < len(rows) <= _BLOCK:
        rough, slack = _rough(_float32(query[None]), vectors[rows], metric)
        rows = rows[rough[0] >= np.partition(rough[0], -k)[-k] - 2 * slack[0]]
    blocks = (vectors[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
    scores = np.concatenate([np.empty(0), *(score(query.astype(np.float64), block, metric) for block in blocks)])
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]


def exact_search(
    vectors: NDArray[Any],
    queries: NDArray[np.floating[Any]],
    k: int,
    metric: str = "cosine",
    rows: NDArray[np.int64] | None = None,
    knn: Knn | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compare every vector with every query, block by block.

    Float32 products choose who may be among the best, with room for their rounding; float64 ranks those.

    Args:
        vectors: ``(N, D)``, may be a memory map; of unit length under cosine.
        queries: ``(Q, D)``, not normalised.
        k: neighbours.
        metric: one of `vmae_embed.index.spec.METRICS`.
        rows: ascending; those that may be found. None for all.
        knn: makes the float32 products elsewhere; see `vmae_embed.index.backend.gpu_knn`.

    Returns:
        Scores and rows, each ``(Q, min(k, rows))``, best first; equal scores in the order of the rows.
    """
    k = min(k, len(vectors) if rows is None else len(rows))
    scores = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    asked = normalise(queries) if metric == "cosine" else queries
    for start in range(0, len(queries) if k else 0, _QUERIES):
        few = slice(start, start + _QUERIES)
        nearby = (
            _nearby(vectors, _float32(asked[few]), k, metric, rows)
            if knn is None
            else _nearby_by(knn, vectors, _float32(asked[few]), k, rows)
        )
        for i, near in enumerate(nearby, start):
            scores[i], found[i] = rank(queries[i], vectors, near, k, metric)
    return scores, found


def _nearby(
    vectors: NDArray[Any], queries: NDArray[np.float32], k: int, metric: str, rows: NDArray[np.int64] | None
) -> Iterator[NDArray[np.int64]]:
    """Rows that hold each query's k best, and those that float32 cannot tell from them."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    slack = np.zeros(len(queries), dtype=np.float32)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    count = len(vectors) if rows is None else len(rows)
    for start in range(0, count, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, count)) if rows is None else rows[start : start + _BLOCK]
        block = vectors[start : start + _BLOCK] if rows is None else vectors[numbers]
        rough, off_by = _rough(queries, block, metric)
        slack = np.maximum(slack, off_by)
        # Before there is a best, the first block's own: else all of it would be kept.
        floor = best.min(axis=1) if start or k > len(numbers) else np.partition(rough, -k, axis=1)[:, -k]
        query, place = np.nonzero(rough >= (floor - 2 * slack)[:, None])
        near = rough[query, place]
        kept.append((query, numbers[place], near))
        # The few that came near, as rows of a table, against the best so far.
        per_query = np.bincount(query, minlength=len(queries))
        table = np.full((len(queries), int(per_query.max(initial=0))), -np.inf, dtype=np.float32)
        table[query, np.arange(len(query)) - np.repeat(np.cumsum(per_query) - per_query, per_query)] = near
        merged = np.hstack([best, table])
        best = np.partition(merged, merged.shape[1] - k, axis=1)[:, -k:]
        if sum(len(query) for query, _, _ in kept) > 8 * best.size:
            kept = [_still_near(kept, best.min(axis=1) - 2 * slack)]
    query, found, _ = _still_near(kept, best.min(axis=1) - 2 * slack)
    order = np.argsort(query, kind="stable")
    yield from np.split(found[order], np.cumsum(np.bincount(query, minlength=len(queries)))[:-1])


def _nearby_by(
    knn: Knn, vectors: NDArray[Any], queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The same, ``(Q, more than K)``, with some room for what float32 cannot tell apart."""
    count = len(vectors) if rows is None else len(rows)
    found = []
    for start in range(0, count, _KNN_BLOCK):
        numbers = np.arange(start, min(start + _KNN_BLOCK, count)) if rows is None else rows[start : start + _KNN_BLOCK]
        found.append(numbers[knn(queries, _float32(vectors[numbers]), min(2 * k + _ROOM, len(numbers)))])
    return np.sort(np.hstack(found), axis=1)


def _still_near(
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]], floor: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    query, found, near = (np.concatenate(column) for column in zip(*kept, strict=True))
    still = near >= floor[query]
    return query[still], found[still], near[still]


def _rough(
    queries: NDArray[np.float32], vectors: NDArray[Any], metric: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Products in float32, in the order of the scores, and how far each query's may be off."""
    # Of a sum of D products, in whatever order: within 6 sqrt(D) u but for one in 10^7 (Higham and Mary,
    # A New Approach to Probabilistic Rounding Error Analysis, 2019). Sure bounds, D u, keep ten times as many.
    unit = 6 * vectors.shape[1] ** 0.5 * np.finfo(np.float32).eps / 2
    rounding = 2 * np.finfo(vectors.dtype if vectors.dtype.kind == "f" else np.float32).eps
    block = _float32(vectors)
    rough: NDArray[np.float32] = queries @ block.T
    lengths = np.linalg.norm(queries, axis=1)
    if metric == "cosine":
        # Stored vectors are of unit length up to their own rounding, which scores make good.
        return rough, ((unit + rounding) * lengths).astype(np.float32)
    squares = np.einsum("nd,nd->n", block, block)
    longest = np.sqrt(squares.max(initial=0))
    if metric == "l2":
        rough = rough - squares / 2
        return rough, (unit * (longest * lengths + longest**2)).astype(np.float32)
    return rough, (unit * longest * lengths).astype(np.float32)


def _float32(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors, dtype=np.float32)
