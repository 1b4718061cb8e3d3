"""Tokens of clips on disk: ``.npy`` files of float16, written clip by clip, read by the batch.

A file's name says how many clips it is of. So the shard decides which one counts: whatever was
being rewritten when a run was killed, a shard of n clips has the tokens of those n clips.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError
from vmae_embed.library.files import cannot_write, put_in_place, sync_file, temporary_name, write_atomically

TOKEN_TYPE = np.dtype("<f2")

# Clips that are read at once where a whole file is gone through.
_BLOCK = 16


def bytes_of_tokens(shape: Sequence[int]) -> int:
    """Room that tokens of a shape take on disk."""
    return int(np.prod(shape)) * TOKEN_TYPE.itemsize


def token_file(folder: Path, unit: str, clips: int) -> Path:
    """Where the tokens of a unit of so many clips lie, below the library's ``folder`` of tokens."""
    return folder / f"{unit}-{clips}.npy"


class TokenSpool:
    """Tokens of a unit's clips on their way to disk, in a file that gets its name when the unit is complete.

    Args:
        folder: of the library's tokens.
        unit: whose.
        shape: (N, D), of a clip.
    """

    def __init__(self, folder: Path, unit: str, shape: tuple[int, int]) -> None:
        self._folder, self._unit, self._shape = folder, unit, shape
        # Where file systems have no locks two runs may write the same unit.
        self._path = temporary_name(folder / f"{unit}-of-{os.getpid()}.npy")
        self._places = self._start = 0

    def append(self, tokens: NDArray[np.floating[Any]]) -> tuple[range, NDArray[np.bool_]]:
        """Write B clips' tokens behind those that are there.

        Args:
            tokens: ``(B, N, D)``. Numbers beyond float16 become infinite.

        Returns:
            Their places, and ``(B,)`` whether they are finite.

        Raises:
            LibraryError: the directory cannot be written to, or the disk is full.
        """
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(tokens, dtype=TOKEN_TYPE)
        try:
            if not self._places:
                self._folder.mkdir(exist_ok=True)
            with self._path.open("ab" if self._places else "wb") as file:
                if not self._places:
                    _write_header(file, (0, *self._shape))
                    self._start = file.tell()
                self._check_size(file)
                file.write(stored.data)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        places = range(self._places, self._places + len(stored))
        self._places = places.stop
        return places, np.asarray(np.isfinite(stored).all(axis=(1, 2)))

    def commit(self, kept: Sequence[int]) -> Path:
        """Give the file its name, with the tokens in these places and no others; there is none for no clips.

        Args:
            kept: ascending.

        Returns:
            The file.

        Raises:
            LibraryError: as `append`.
        """
        path = token_file(self._folder, self._unit, len(kept))
        if not kept:
            self._path.unlink(missing_ok=True)
            return path
        size = bytes_of_tokens(self._shape)
        try:
            with self._path.open("r+b") as file:
                self._check_size(file)
                _write_header(file, (len(kept), *self._shape))
                start = file.tell()
                # Most often all are kept, and none has to move.
                for place, was_at in enumerate(kept):
                    if place != was_at:
                        file.seek(start + was_at * size)
                        tokens = file.read(size)
                        file.seek(start + place * size)
                        file.write(tokens)
                file.truncate(start + len(kept) * size)
                sync_file(file)
            put_in_place(self._path, path)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return path

    def _check_size(self, file: BinaryIO) -> None:
        file.flush()
        if os.fstat(file.fileno()).st_size != self._start + self._places * bytes_of_tokens(self._shape):
            raise LibraryError(f"{self._path}: another process changed it; run the same command again, by itself")


def copy_tokens(source: Path, target: Path, shape: tuple[int, int, int], kept: Sequence[int]) -> None:
    """Write some clips' tokens to another file.

    Args:
        source: holds B clips.
        target: gets those in the places ``kept``.
        shape: (B, N, D), of the source.
        kept: places in the source.

    Raises:
        LibraryError: the source is not what it should be, or the target cannot be written.
    """

    def write(file: BinaryIO) -> None:
        _write_header(file, (len(kept), *shape[1:]))
        for start in range(0, len(kept), _BLOCK):
            file.write(read_tokens(source, shape, kept[start : start + _BLOCK]).data)

    write_atomically(target, write)


def read_tokens(path: Path, shape: tuple[int, int, int], rows: Sequence[int]) -> NDArray[np.float16]:
    """Read some clips' tokens: ``(len(rows), N, D)``.

    Args:
        path: of a file of B clips.
        shape: (B, N, D).
        rows: places in the file, in any order.

    Raises:
        LibraryError: it cannot be read, or is not of that shape.
    """
    found = np.empty((len(rows), *shape[1:]), TOKEN_TYPE)
    size = bytes_of_tokens(shape[1:])
    try:
        with path.open("rb") as file:
            start = _check_header(file, shape)
            for row, tokens in zip(rows, found, strict=True):
                file.seek(start + row * size)
                file.readinto(tokens.data.cast("B"))
    except (OSError, ValueError) as error:  # ValueError: what NumPy says of other files
        detail = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:200]
        shard = f"clips/{path.stem.rpartition('-')[0]}.parquet"
        if isinstance(error, FileNotFoundError):
            raise LibraryError(
                f"{path}: not there; where another run is changing the library, try again when it is done, "
                f"else delete {shard} and run extract again"
            ) from error
        raise LibraryError(f"{path}: cannot be read ({detail}); delete {shard} and run extract again") from error
    return found


def blocks_of_tokens(path: Path, shape: tuple[int, int, int]) -> Iterator[NDArray[np.float16]]:
    """Go through a file of (B, N, D) tokens, a few clips at a time.

    Raises:
        LibraryError: as `read_tokens`.
    """
    for start in range(0, shape[0], _BLOCK):
        yield read_tokens(path, shape, range(start, min(start + _BLOCK, shape[0])))


class Tokens:
    """``(B, N, D)`` float16 in files of several clips each. They are read by `numpy.asarray`, and not before.

    Indexing with rows gives another one, of those rows: ``np.asarray(tokens[rows])``.

    Args:
        files: in the order of their rows, with how many they hold.
        shape: (N, D), of a clip.
        rows: of all the files' rows, those that it has; None for all.
    """

    dtype = TOKEN_TYPE
    ndim = 3

    def __init__(
        self, files: Sequence[tuple[Path, int]], shape: tuple[int, int], rows: NDArray[np.intp] | None = None
    ) -> None:
        self._files, self._shape = files, shape
        self._ends = np.cumsum([clips for _, clips in files], dtype=np.intp)
        self._rows = np.arange(self._ends[-1] if files else 0) if rows is None else rows

    @classmethod
    def join(cls, parts: Sequence[Tokens]) -> Tokens:
        """Return one with the rows of several, one after the other; all of one (N, D)."""
        offsets = np.cumsum([0, *(sum(clips for _, clips in part._files) for part in parts)])
        rows = [part._rows + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls([file for part in parts for file in part._files], parts[0]._shape, np.concatenate(rows))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, N, D)."""
        return len(self._rows), *self._shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: NDArray[np.intp] | Sequence[int] | slice) -> Tokens:
        return Tokens(self._files, self._shape, self._rows[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = np.empty(self.shape, TOKEN_TYPE)
        of_file = np.searchsorted(self._ends, self._rows, side="right")
        for number in np.unique(of_file):
            path, clips = self._files[number]
            asked = np.flatnonzero(of_file == number)
            local = self._rows[asked] - (self._ends[number] - clips)
            found[asked] = read_tokens(path, (clips, *self._shape), local.tolist())
        return found if dtype is None else found.astype(dtype, copy=False)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """NumPy leaves room for any number of clips, so that the header of none is as long as that of many."""
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(TOKEN_TYPE), "fortran_order": False, "shape": shape})


def _check_header(file: BinaryIO, shape: tuple[int, int, int]) -> int:
    """Return where the tokens begin; ValueError where they are not of this shape, or not all there."""
    if npy.read_magic(file) != (1, 0):
        raise ValueError("not what this version writes")
    found, is_fortran, kind = npy.read_array_header_1_0(file)
    if (found, is_fortran, kind) != (shape, False, TOKEN_TYPE):
        raise ValueError(f"it holds {kind} of shape {found}, not {TOKEN_TYPE} of shape {shape}")
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if size != start + bytes_of_tokens(shape):
        raise ValueError(f"it has {size:,} bytes, not {start + bytes_of_tokens(shape):,}")
    return start
