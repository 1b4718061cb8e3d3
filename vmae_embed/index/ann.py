"""Searching an IVF index of FAISS: its codes say which vectors may be near, the stored vectors which are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index.backend import import_faiss
from vmae_embed.index.similarity import normalise, rank

# Queries from which on threads pay: where other work has the cores, meeting at the end costs them a time slice.
_MANY = 16


@dataclass(frozen=True)
class Effort:
    """How much of an IVF index a search looks at.

    Attributes:
        nprobe: cells to visit.
        candidates: codes to compare in full, for each hit asked for.
    """

    nprobe: int
    candidates: int


def candidates(
    index: Any, queries: NDArray[np.float32], count: int, nprobe: int, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Rows that an IVF index takes for the nearest, ``(Q, count)``; -1 where it finds fewer.

    Args:
        index: of FAISS.
        queries: ``(Q, D)``; of unit length under cosine.
        count: rows a query.
        nprobe: cells to visit; all if there are fewer.
        among: ascending rows that may be found; None for all.
    """
    faiss = import_faiss()
    nprobe = min(nprobe, index.nlist)
    chosen: dict[str, Any] = {"nprobe": nprobe}
    if among is not None:
        allowed = np.zeros(int(among[-1]) + 1, dtype=bool)
        allowed[among] = True
        chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        chosen["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=max(2 * nprobe, 64))
    _, rows = index.search(queries, count, params=faiss.SearchParametersIVF(**chosen))
    found: NDArray[np.int64] = rows
    return found


def add(index: Any, vectors: NDArray[Any], rows: NDArray[np.int64]) -> None:
    """Add rows of ``(N, D)`` vectors to an index of FAISS, with their numbers as ids."""
    if len(rows):
        index.add_with_ids(np.ascontiguousarray(vectors[rows], dtype=np.float32), rows)


def remove(index: Any, rows: NDArray[np.int64]) -> None:
    """Remove rows from an IVF index of FAISS."""
    faiss = import_faiss()
    index.remove_ids(rows)
    lists = faiss.downcast_InvertedLists(index.invlists)
    if not isinstance(lists, faiss.BlockInvertedLists):
        return
    # FAISS 1.15 leaves the codes of packed blocks where they were, and what is added later is mixed with them.
    nothing = np.zeros(lists.packer.code_size, dtype=np.uint8)
    for cell in range(index.nlist):
        size, codes = lists.list_size(cell), lists.get_codes(cell)
        for place in range(size, -(-size // lists.n_per_block) * lists.n_per_block):
            lists.packer.pack_1_c(faiss.swig_ptr(nothing), place, codes)


def search(
    index: Any,
    vectors: NDArray[Any],
    queries: NDArray[np.floating[Any]],
    k: int,
    metric: str,
    effort: Effort,
    at: int,
    among: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search an IVF index and rank its candidates by their stored vectors.

    Returns:
        Scores and rows, each ``(Q, K)``, best first; row -1 and score -inf where it finds fewer.
    """
    # As many for a single hit as the recall was measured with.
    wanted = min(max(k, at) * effort.candidates, index.ntotal)
    asked = np.ascontiguousarray(normalise(queries) if metric == "cosine" else queries, dtype=np.float32)
    # In order, so that a memory map is read forward.
    rows = np.sort(candidates(index, asked, wanted, effort.nprobe, among), axis=1)
    products = None
    if metric == "cosine" and vectors.dtype == np.float32 and len(queries) >= _MANY:
        products = _products(np.ascontiguousarray(queries, dtype=np.float32), vectors, rows)
    return rank(queries, vectors, rows, k, metric, products)


def _products(queries: NDArray[np.float32], vectors: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Products of each query with its rows, ``(Q, C)``; -inf for row -1. No vector is copied; all threads take part."""
    faiss = import_faiss()
    products = np.empty(rows.shape, dtype=np.float32)
    arrays = (faiss.swig_ptr(array) for array in (products, queries, vectors, rows))
    faiss.fvec_inner_products_by_idx(*arrays, vectors.shape[1], *rows.shape)
    return products
