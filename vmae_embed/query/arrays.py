"""Query vectors: arrays, and the ``.npy`` files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import QueryError
from vmae_embed.query.asked import Asked
from vmae_embed.records import QueryClip


def from_array(array: NDArray[Any], name: str, width: int) -> Asked:
    """Take the vectors of an array as a query.

    Args:
        array: ``(D,)`` or ``(Q, D)``.
        name: of the query.
        width: D of the library.

    Raises:
        QueryError: it is of another shape or type, or not finite.
    """
    vectors = array[None] if array.ndim == 1 else array
    check_array(vectors, name, width)
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise QueryError(f"{name}: holds numbers that are not finite")
    clips = [QueryClip(name if len(vectors) == 1 else f"{name}[{i}]") for i in range(len(vectors))]
    return Asked(name, clips, vectors)


def check_array(vectors: NDArray[Any], name: str, width: int) -> None:
    """Refuse what is no ``(Q, D)`` of numbers with Q > 0.

    Raises:
        QueryError: naming what there is and what is taken.
    """
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors) or vectors.dtype.kind not in "fiu":
        shape = vectors.shape[1:] if vectors.ndim == 2 and len(vectors) == 1 else vectors.shape
        raise QueryError(
            f"{name}: {vectors.dtype} of shape {shape}; this library takes numbers of shape ({width},) or (Q, {width})"
        )


def load_array(path: str, *, mapped: bool = False) -> NDArray[Any]:
    """Read a ``.npy`` file.

    Args:
        path: of the file.
        mapped: leave it on disk, to be read piece by piece.

    Raises:
        QueryError: it is missing, or is none.
    """
    try:
        array = np.load(Path(path).expanduser(), mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise QueryError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise QueryError(f"{path}: not a NumPy array ({' '.join(str(error).split())})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise QueryError(f"{path}: an archive of arrays; save one array with np.save")
    return array
