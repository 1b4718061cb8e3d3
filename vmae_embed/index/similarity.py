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
# Queries whose vectors are ranked at a time: they fit into a processor's cache.
_TOGETHER = 16


def normalise(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale rows to unit length; a row of zeros stays."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = exact / np.where(lengths > 0, lengths, 1)
    return scaled


def score(queries: NDArray[np.float64], vectors: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Compare each query with vectors of its own, in float64.

    Float32 sums put near-duplicates above a clip itself; here itself is 1 and all others are below.

    Args:
        queries: ``(Q, D)``.
        vectors: ``(Q, N, D)``.
        metric: one of `vmae_embed.index.spec.METRICS`.

    Returns:
        ``(Q, N)``.
    """
    exact = vectors.astype(np.float64)
    if metric == "l2":
        distances: NDArray[np.float64] = -np.sqrt(np.square(exact - queries[:, None]).sum(axis=2))
        return distances
    products: NDArray[np.float64] = (exact @ queries[:, :, None])[:, :, 0]
    if metric == "ip":
        return products
    lengths = np.sqrt(np.einsum("qnd,qnd->qn", exact, exact) * np.square(queries).sum(axis=1)[:, None])
    cosines: NDArray[np.float64] = np.clip(products / np.where(lengths > 0, lengths, 1), -1, 1)
    return cosines


def rank(
    queries: NDArray[np.floating[Any]],
    vectors: NDArray[Any],
    rows: NDArray[np.int64],
    k: int,
    metric: str,
    products: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rank rows by their similarity to each query.

    Args:
        queries: ``(Q, D)``.
        vectors: ``(N, D)``, may be a memory map; of unit length under cosine.
        rows: ``(Q, C)``, ascending for each query; -1 for none.
        k: best to return.
        metric: one of `vmae_embed.index.spec.METRICS`.
        products: ``(Q, C)`` of the rows with each query in float32, -inf for none, where they are known already;
            only under cosine.

    Returns:
        Scores and rows, each ``(Q, k)``, best first, equal scores in the order of the rows; row -1 and score -inf
        where there are fewer.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    best = np.full((len(queries), k), -1, dtype=np.int64)
    step = max(min(_TOGETHER, _BLOCK // max(rows.shape[1], 1)), 1)
    for start in range(0, len(queries), step):
        few = slice(start, start + step)
        near = _shortlist(queries[few], vectors, rows[few], k, metric, None if products is None else products[few])
        exact = np.full(near.shape, -np.inf)
        for first in range(0, near.shape[1], _BLOCK):
            part = near[:, first : first + _BLOCK]
            found = score(queries[few].astype(np.float64), vectors[part], metric)
            exact[:, first : first + _BLOCK] = np.where(part < 0, -np.inf, found)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        each = np.arange(len(order))[:, None]
        scores[few, : order.shape[1]], best[few, : order.shape[1]] = exact[each, order], near[each, order]
    return scores, best


def _shortlist(
    queries: NDArray[np.floating[Any]],
    vectors: NDArray[Any],
    rows: NDArray[np.int64],
    k: int,
    metric: str,
    products: NDArray[np.float32] | None,
) -> NDArray[np.int64]:
    """Of each query's rows its k best, and those that float32 cannot tell from them, in the order of the rows."""
    count = rows.shape[1]
    if count <= 2 * k or count > _BLOCK:
        return rows
    asked = _float32(queries)
    if products is None:
        products, slack = _rough(asked, vectors[rows], metric)
        products[rows < 0] = -np.inf
    else:
        slack = _slack(asked, vectors.dtype, metric)
    floor = np.partition(products, count - k, axis=1)[:, count - k] - 2 * slack
    lowest = np.maximum(floor, np.finfo(np.float32).min)  # of fewer than k, none is left out, and -1 is
    most = max(int((products >= lowest[:, None]).sum(axis=1).max()), 1)
    places = np.sort(np.argpartition(products, count - most, axis=1)[:, count - most :], axis=1)
    return rows[np.arange(len(rows))[:, None], places]


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
        near = list(nearby)
        for first in range(0, len(near), _TOGETHER):
            these = slice(start + first, start + first + _TOGETHER)
            table = _as_table(near[first : first + _TOGETHER])
            scores[these], found[these] = rank(queries[these], vectors, table, k, metric)
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


def _as_table(near: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    table = np.full((len(near), max(map(len, near))), -1, dtype=np.int64)
    for line, rows in zip(table, near, strict=True):
        line[len(line) - len(rows) :] = rows
    return table


def _rough(
    queries: NDArray[np.float32], vectors: NDArray[Any], metric: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Products in float32, in the order of the scores, and how far each query's may be off.

    Args:
        queries: ``(Q, D)``.
        vectors: ``(N, D)`` for all queries, or ``(Q, N, D)``.
        metric: one of `vmae_embed.index.spec.METRICS`.
    """
    block = _float32(vectors)
    rough: NDArray[np.float32] = queries @ block.T if block.ndim == 2 else (block @ queries[:, :, None])[:, :, 0]
    if metric == "cosine":
        return rough, _slack(queries, vectors.dtype, metric)
    squares = np.einsum("...d,...d->...", block, block)
    if metric == "l2":
        rough = rough - squares / 2
    return rough, _slack(queries, vectors.dtype, metric, np.sqrt(squares.max(axis=-1, initial=0)))


def _slack(queries: NDArray[np.float32], dtype: np.dtype[Any], metric: str, longest: Any = 1) -> NDArray[np.float32]:
    """How far products in float32 may be off, ``(Q,)``."""
    # Of a sum of D products, in whatever order: within 6 sqrt(D) u but for one in 10^7 (Higham and Mary,
    # A New Approach to Probabilistic Rounding Error Analysis, 2019). Sure bounds, D u, keep ten times as many.
    unit = 6 * queries.shape[1] ** 0.5 * np.finfo(np.float32).eps / 2
    if metric == "cosine":
        # Stored vectors are of unit length up to their own rounding, which scores make good.
        unit += np.finfo(dtype if dtype.kind == "f" else np.float32).eps / 2
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries))
    off_by: NDArray[np.float32] = (unit * (longest * lengths + (longest**2 if metric == "l2" else 0))).astype(
        np.float32
    )
    return off_by


def _float32(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors, dtype=np.float32)
