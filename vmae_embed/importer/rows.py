"""Rows of tables in one file or in a folder of them, read in order and never all at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vmae_embed.errors import UsageError
from vmae_embed.records import fingerprint
from vmae_embed.tables import TABLE_SUFFIXES, read_table

# Of a column chunk, which may be gigabytes long.
_READ_AT_ONCE = 2**20
_BATCH = 4096

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the files that rows come from.

    Attributes:
        path: of the file.
        first: number of its first row, counted over all files.
        rows: how many it has.
    """

    path: Path
    first: int
    rows: int

    @property
    def stop(self) -> int:
        """Number of the row after its last."""
        return self.first + self.rows

    @property
    def mark(self) -> str:
        """Changes when the file does, as far as the file system tells; not when its folder moves."""
        status = os.stat(self.path)
        return f"{self.path.name} {fingerprint(status.st_size, status.st_mtime_ns)}"


class Rows(Protocol):
    """A table that is read in pieces.

    Attributes:
        name: that its user knows it by.
        schema: of all its rows.
        parts: files that it lies in.
    """

    name: str
    schema: pa.Schema
    parts: list[Part]

    def read(self, ranges: Sequence[Range], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read ascending ranges of rows, a table for each.

        Raises:
            UsageError: a file cannot be read.
        """
        ...


class ParquetRows:
    """`Rows` of Parquet files."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.parts: list[Part] = []
        schemas = []
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    self.parts.append(Part(path, self.count, file.metadata.num_rows))
                    schemas.append(_plain(file.schema_arrow))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise unreadable(path, error) from error
            names = schemas[-1].names
            for column in names:
                if names.count(column) > 1:
                    raise UsageError(f"{path}: two columns are named {column!r}; rename one")
        try:
            self.schema = pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise UsageError(f"{name}: its files have columns of different types ({_detail(error)})") from error

    @property
    def count(self) -> int:
        """Rows of all files."""
        return self.parts[-1].stop if self.parts else 0

    def read(self, ranges: Sequence[Range], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read ascending ranges of rows, a table for each; of row groups, only those that hold some.

        Raises:
            UsageError: a file cannot be read.
        """
        schema = pa.schema([self.schema.field(name) for name in columns])
        batches = self._batches(ranges, schema)
        first, batch = 0, schema.empty_table()
        for start, stop in ranges:
            pieces = [schema.empty_table()]
            while start < stop:
                while first + len(batch) <= start:
                    first, batch = next(batches)
                pieces.append(batch.slice(start - first, stop - start))
                start += len(pieces[-1])
            yield pa.concat_tables(pieces)

    def _batches(self, ranges: Sequence[Range], schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
        starts, stops = (np.array(edges) for edges in zip(*ranges, strict=True))
        size = min(_BATCH, int((stops - starts).max()))
        for part in self.parts:
            try:
                # Neither buffered ahead nor read whole: memory must not follow the size of row groups.
                with pq.ParquetFile(
                    part.path, buffer_size=_READ_AT_ONCE, pre_buffer=False, page_checksum_verification=True
                ) as file:
                    names = [name for name in schema.names if name in file.schema_arrow.names]
                    first = part.first
                    for group in range(file.num_row_groups):
                        stop = first + file.metadata.row_group(group).num_rows
                        if np.searchsorted(stops, first, "right") < np.searchsorted(starts, stop, "left"):
                            row = first
                            for batch in file.iter_batches(size, row_groups=[group], columns=names):
                                yield row, _as(schema, batch)
                                row += len(batch)
                        first = stop
            except (OSError, ValueError, pa.ArrowException) as error:
                raise unreadable(part.path, error) from error


class TableRows:
    """`Rows` of a CSV or TSV file, which is read at once."""

    def __init__(self, name: str, path: Path, text: Sequence[str]) -> None:
        self.name = name
        self._table = read_table(path, text=text)
        self.schema = self._table.schema
        self.parts = [Part(path, 0, len(self._table))]
        for column in self.schema.names:
            if self.schema.names.count(column) > 1:
                raise UsageError(f"{path}: two columns are named {column!r}; rename one")

    def read(self, ranges: Sequence[Range], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Give ascending ranges of rows, a table for each."""
        table = self._table.select(columns)
        for start, stop in ranges:
            yield table.slice(start, stop - start)


def open_rows(path: Path, text: Sequence[str]) -> Rows:
    """Open a CSV, TSV or Parquet file, or a folder of Parquet files.

    Args:
        path: of the file or folder.
        text: columns of CSV and TSV files to leave as they are written.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if path.is_dir():
        return ParquetRows(str(path), files_of(path, ".parquet"))
    if path.suffix.lower() != ".parquet":
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise UsageError(
                f"{path}: no table; give a {', '.join(TABLE_SUFFIXES)} file, or a folder of .parquet files"
            )
        return TableRows(str(path), path, text)
    return ParquetRows(str(path), [existing(path)])


def existing(path: Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        UsageError: it is not.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file or folder'}")
    return path


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder by their suffix, as people count: ``img_emb_2`` before ``img_emb_10``.

    Raises:
        UsageError: it has none, or cannot be read.
    """
    found = list_folder(folder).get(suffix, [])
    if not found:
        raise UsageError(f"{folder}: holds no {suffix} files; give the folder that they lie in themselves")
    return found


def list_folder(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder, in natural order, by their suffixes; those with a leading dot are nobody's.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(files, key=_natural):
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    return by_suffix


def unreadable(path: Path, error: Exception) -> UsageError:
    """Say that a file cannot be read, and why."""
    return UsageError(f"{path}: cannot be read ({_detail(error)}); is it whole?")


def _plain(schema: pa.Schema) -> pa.Schema:
    """With what extension types are made of in their place."""
    return pa.schema([pa.field(field.name, getattr(field.type, "storage_type", field.type)) for field in schema])


def _as(schema: pa.Schema, batch: pa.RecordBatch) -> pa.Table:
    """In a schema of several files: what others have wider, or besides."""
    columns = [getattr(column, "storage", column) for column in batch.columns]
    table = pa.table(columns, schema=_plain(batch.schema))
    return pa.concat_tables([schema.empty_table(), table], promote_options="permissive")


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _detail(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
