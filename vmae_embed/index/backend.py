"""FAISS itself: which wheel is there, and whether it can use a GPU."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import SearchIndexError

Knn: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float32], int], NDArray[np.int64]]

# All own the module `faiss`, and overwrite each other's files.
_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
_BUILT_FOR_CUDA_12 = {"faiss-gpu", "faiss-gpu-cu12"}


@cache
def import_faiss() -> Any:
    """Import FAISS, once it is clear which one.

    Raises:
        SearchIndexError: none is installed, or two that overwrite each other.
    """
    wheels = [name for name in _WHEELS if _is_installed(name)]
    if len(wheels) > 1:
        raise SearchIndexError(
            f"{' and '.join(wheels)} are both installed and overwrite each other's files: "
            f"run `pip uninstall {' '.join(wheels)}`, then install one of them"
        )
    if set(wheels) & _BUILT_FOR_CUDA_12:
        # Loaded after it, torch's own CUDA libraries no longer fit.
        with contextlib.suppress(ImportError):
            importlib.import_module("torch")
    try:
        import faiss
    except ImportError as error:
        raise SearchIndexError(
            "FAISS is not installed: run `pip install 'vmae-embed[cpu]'`, or 'vmae-embed[gpu]'"
        ) from error
    return faiss


def why_no_gpu() -> str | None:
    """Say why FAISS cannot use a GPU here; None if it can."""
    faiss = import_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        return "this FAISS is built without GPU code: pip install 'vmae-embed[gpu]' in the place of [cpu]"
    if not faiss.get_num_gpus():
        return "FAISS sees no GPU"
    return None


def write_faiss(index: Any, path: Path) -> None:
    """Write an index of FAISS to a file.

    Raises:
        OSError: it cannot be written.
    """
    faiss = import_faiss()
    # By its own files, FAISS passes over a disk that is full when the last bytes are written.
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def gpu_knn(metric: str) -> Knn:
    """Search on a GPU: takes ``(Q, D)`` and ``(N, D)`` float32 and K, gives the rows ``(Q, K)`` of the nearest."""
    faiss = import_faiss()
    resources = faiss.StandardGpuResources()
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT

    def knn(queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        _, rows = faiss.knn_gpu(resources, queries, vectors, k, metric=kind)
        found: NDArray[np.int64] = rows
        return found

    return knn


def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
