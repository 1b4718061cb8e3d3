"""Vectors in .npy or Parquet files, read in order and never all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.importer.rows import ParquetRows, Part, Range, Rows, existing, files_of, list_folder, unreadable

DEFAULT_COLUMN = "embedding"
_FLOATS = {pa.float16(): np.float16, pa.float32(): np.float32, pa.float64(): np.float64}
_MOST_NAMED = 10


class Vectors(Protocol):
    """N vectors of one width, read in pieces.

    Attributes:
        name: that their user knows them by.
        parts: files that they lie in.
        width: D.
        itemsize: bytes of one number.
        column: of theirs in their files; None if those have no columns.
        table: those files, with all their columns; None likewise.
    """

    name: str
    parts: list[Part]
    width: int
    itemsize: int
    column: str | None
    table: Rows | None

    def read(self, ranges: Sequence[Range]) -> Iterator[NDArray[Any]]:
        """Read ascending ranges of rows, ``(B, D)`` of floating point for each.

        Raises:
            UsageError: a file cannot be read, or holds a vector that is missing or of another width.
        """
        ...


def open_vectors(path: Path, column: str | None) -> Vectors:
    """Open a .npy or Parquet file, or a folder of one kind of them.

    Args:
        path: of the file or folder.
        column: of a Parquet file's vectors; None for ``embedding``.

    Raises:
        UsageError: there are none, or they cannot be read as vectors.
    """
    suffix = path.suffix.lower()
    files = [path]
    if path.is_dir():
        kinds = sorted(set(list_folder(path)) & {".npy", ".parquet"})
        if len(kinds) > 1:
            raise UsageError(
                f"{path}: holds both .npy and .parquet files; "
                "give the .npy files after --embeddings and the .parquet files after --metadata"
            )
        suffix = kinds[0] if kinds else ".npy or .parquet"
        files = files_of(path, suffix)
    elif existing(path) and suffix not in (".npy", ".parquet"):
        raise UsageError(f"{path}: no vectors; give a .npy or .parquet file, or a folder of them")
    if suffix == ".parquet":
        return ParquetVectors(str(path), files, DEFAULT_COLUMN if column is None else column)
    if column is not None:
        raise UsageError(f"--column {column!r}: .npy files have no columns; leave it out")
    return NpyVectors(str(path), files)


class NpyVectors:
    """`Vectors` of .npy files."""

    column: str | None = None
    table: Rows | None = None

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.parts: list[Part] = []
        self.width = self.itemsize = 0
        for path in paths:
            array = _map(path)
            self.width = self.width or array.shape[1]
            if array.shape[1] != self.width:
                raise UsageError(
                    f"{path}: vectors of width {array.shape[1]}, but {self.parts[0].path.name} has {self.width}"
                )
            self.itemsize = max(self.itemsize, array.dtype.itemsize)
            self.parts.append(Part(path, self.parts[-1].stop if self.parts else 0, len(array)))

    def read(self, ranges: Sequence[Range]) -> Iterator[NDArray[Any]]:
        """Read ascending ranges of rows, none across two files, ``(B, D)`` for each.

        Raises:
            UsageError: a file cannot be read.
        """
        parts = iter(self.parts)
        part = next(parts)
        for start, stop in ranges:
            while part.stop <= start:
                part = next(parts)
            # Mapped anew each time: of a map that is kept, what was read stays in memory.
            yield np.array(_map(part.path)[start - part.first : stop - part.first])


class ParquetVectors:
    """`Vectors` in a column of Parquet files."""

    def __init__(self, name: str, paths: Sequence[Path], column: str) -> None:
        self.name = name
        self._column = column
        self.column: str | None = column
        self._rows = ParquetRows(name, paths)
        self.table: Rows | None = self._rows
        self.parts = self._rows.parts
        if column not in self._rows.schema.names:
            lists = [field.name for field in self._rows.schema if _is_list(field.type)]
            there = f"name one with --column: {', '.join(lists[:_MOST_NAMED])}" if lists else "nor any of lists"
            raise UsageError(f"{name}: no column {column!r}; {there}")
        kind = self._rows.schema.field(column).type
        if not _is_list(kind) or kind.value_type not in _FLOATS:
            raise UsageError(
                f"{name}: column {column!r} is {kind}; give one of lists of float16, float32 or float64 (--column)"
            )
        self._dtype = np.dtype(_FLOATS[kind.value_type])
        self.itemsize = self._dtype.itemsize
        self.width = self._find_width()

    def read(self, ranges: Sequence[Range]) -> Iterator[NDArray[Any]]:
        """Read ascending ranges of rows, ``(B, D)`` for each.

        Raises:
            UsageError: a file cannot be read, or holds a vector that is missing or of another width.
        """
        for (start, stop), table in zip(ranges, self._rows.read(ranges, [self._column]), strict=True):
            yield self._matrix(table, start).reshape(stop - start, self.width)

    def _find_width(self) -> int:
        kind = self._rows.schema.field(self._column).type
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if not self._rows.count:
            return 0
        (first,) = self._rows.read([(0, 1)], [self._column])
        vector = first[self._column][0].as_py()
        if vector is None:
            raise self._is_null(0)
        return len(vector)

    def _is_null(self, row: int) -> UsageError:
        return UsageError(f"{self.name}: row {row} of column {self._column!r} is null; fill it in, or drop it")

    def _matrix(self, table: pa.Table, start: int) -> NDArray[Any]:
        pieces = [np.empty(0, self._dtype)]
        for lists in table[self._column].chunks:
            if lists.null_count:
                row = start + int(np.argmax(np.asarray(lists.is_null())))
                raise self._is_null(row)
            widths = np.full(len(lists), self.width)
            if not pa.types.is_fixed_size_list(lists.type):
                widths = np.asarray(lists.value_lengths())
            if (widths != self.width).any():
                row = int(np.argmax(widths != self.width))
                raise UsageError(
                    f"{self.name}: row {start + row} of column {self._column!r} has {widths[row]} numbers, "
                    f"row 0 has {self.width}; vectors have one width"
                )
            numbers = lists.flatten()
            if numbers.null_count:
                row = start + int(np.argmax(np.asarray(numbers.is_null()))) // self.width
                raise UsageError(f"{self.name}: row {row} of column {self._column!r} holds nulls; fill them in")
            pieces.append(np.asarray(numbers))
            start += len(lists)
        return np.concatenate(pieces)


def _map(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error) or "Python objects" in str(error):  # NumPy takes whatever else it is for a pickle
            raise UsageError(f"{path}: no .npy file of numbers (objects, a pickle, or something else)") from error
        raise unreadable(path, error) from error
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UsageError(f"{path}: an archive of arrays; save one array with np.save")
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UsageError(
            f"{path}: {array.dtype} of shape {array.shape}; give float16, float32 or float64 of shape (N, D)"
        )
    return array


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
