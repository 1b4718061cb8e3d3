"""Clip rows to .npy, Parquet and Lance, a few thousand at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.library import Library, to_matrix

# Of a row group: readers take one at once.
_GROUP_ROWS = 16_384
_GROUP_BYTES = 2**26
_PART_ROWS = 1_000_000

# Told what is done, how many rows of it are, and how many there are.
Observer = Callable[[str, int, int], None]


class Clips:
    """The clips that a library held when this was made.

    Attributes:
        count: N.
        schema: of their rows.
        stored: type of their embeddings.
        width: D, of those.
    """

    def __init__(self, library: Library, observe: Observer | None) -> None:
        self._library, self._observe = library, observe
        self._units = library.units()
        self.count = library.count(self._units)
        self.schema: pa.Schema = library.schema
        self.stored, self.width = np.dtype(library.config.stored), library.width

    def groups(self) -> Iterator[pa.Table]:
        """Read them, some thousand rows at a time, however few a shard holds.

        Raises:
            LibraryError: a shard cannot be read, or has changed meanwhile.
        """
        size = max(min(_GROUP_ROWS, _GROUP_BYTES // (self.width * self.stored.itemsize)), 1)
        done = 0
        for table in _regroup(self._tables(), size):
            done += len(table)
            yield table
            if self._observe is not None:
                self._observe("writing", done, self.count)
        if done != self.count:
            raise LibraryError(f"{self._library.path}: was written to meanwhile; export it again")

    def _tables(self) -> Iterator[pa.Table]:
        empty = self.schema.empty_table()
        for shard in self._library.shards(units=self._units, check=True):
            yield pa.concat_tables([empty, shard], promote_options="default")


def write_npy(clips: Clips, folder: Path) -> None:
    """Write ``embeddings.npy`` ``(N, D)`` and ``metadata.parquet``, whose row i is of vector i."""
    folder.mkdir()
    header = {"descr": clips.stored.str, "fortran_order": False, "shape": (clips.count, clips.width)}
    schema = pa.schema([field for field in clips.schema if field.name != "embedding"])
    with (
        (folder / "embeddings.npy").open("wb") as file,
        parquet_writer(folder / "metadata.parquet", schema) as writer,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for table in clips.groups():
            file.write(to_matrix(table["embedding"], clips.width).astype(clips.stored).tobytes())
            writer.write_table(table.drop_columns("embedding"))


def write_parquet(clips: Clips, path: Path) -> None:
    """Write one file with all columns."""
    with parquet_writer(path, clips.schema) as writer:
        for table in clips.groups():
            writer.write_table(table)


def write_parts(clips: Clips, folder: Path) -> None:
    """Write a folder of Parquet files with all columns, of a million rows or some more each."""
    folder.mkdir()
    groups = clips.groups()
    group = next(groups, None)
    part = 0
    while group is not None:
        with parquet_writer(folder / f"part-{part:05}.parquet", clips.schema) as writer:
            rows = 0
            while group is not None and rows < _PART_ROWS:
                writer.write_table(group)
                rows += len(group)
                group = next(groups, None)
        part += 1


def check_lance() -> None:
    """Refuse where Lance is not installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("lance") is None:
        raise UsageError(
            "--to lance: Lance is not installed: run `pip install 'vmae-embed[lance]'`, or export to parquet"
        )


def write_lance(clips: Clips, folder: Path) -> None:
    """Write a Lance dataset with all columns."""
    import lance

    batches = (batch for table in clips.groups() for batch in table.to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(clips.schema, batches), str(folder))


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file to write tables of a schema to; embeddings hardly repeat and get no dictionary."""
    repeating = [name for name in schema.names if name != "embedding"]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True)


def _regroup(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        while rows >= size:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, size).combine_chunks()
            waiting, rows = [joined.slice(size)], rows - size
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()
