"""FAISS itself: which wheel is there, and whether it can use a GPU."""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any

from vmae_embed.errors import SearchIndexError

# All own the module `faiss`, and overwrite each other's files.
_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")


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


@functools.cache  # looking through all that is installed takes longer than a search
def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
