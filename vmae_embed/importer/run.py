"""Import: looked through once before a row is written, then written a shard at a time."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata as packages
from pathlib import Path

import numpy as np
import pyarrow as pa

from vmae_embed.errors import LibraryError, UsageError, one_line
from vmae_embed.importer.columns import TEXT_COLUMNS, choose_columns
from vmae_embed.importer.ids import Ids
from vmae_embed.importer.rows import Rows, open_rows
from vmae_embed.importer.source import Block, Observer, Source, count_rows
from vmae_embed.importer.vectors import Vectors, open_vectors
from vmae_embed.library import STORED, Library, LibraryConfig, require_own_place

DEFAULT_NAME = "imported"

# Of a shard: as many vectors, or as few as take so many bytes.
_MOST_ROWS = 20_000
_MOST_BYTES = 2**26

_VERSIONED = ("vmae-embed", "pyarrow", "numpy")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        library: that it added to.
        clips: that it added.
        held: vectors that the library held already.
        zeros: of the added ones, those of length zero.
        left_out: columns that were not taken, and why.
        seconds: wall time.
    """

    library: Library
    clips: int
    held: int
    zeros: int
    left_out: dict[str, str]
    seconds: float


def import_vectors(
    library: str | Path,
    embeddings: str | Path,
    *,
    metadata: str | Path | None = None,
    column: str | None = None,
    id_column: str | None = None,
    stored: str | None = None,
    name: str | None = None,
    observe: Observer | None = None,
) -> Imported:
    """Take vectors that were made elsewhere as a library, or add them to one that was imported.

    Killed at any moment and called again, it ends with the rows of an undisturbed call.

    Args:
        library: directory to make or to add to.
        embeddings: a ``.npy`` file ``(N, D)``, a Parquet file with a column of lists, or a folder of either.
        metadata: a CSV, TSV or Parquet file, or a folder of Parquet files; row i is of vector i.
        column: of a Parquet file's vectors; None for ``embedding``.
        id_column: whose values become clip ids; None for ``clip_id``, else made of the video and its
            times, else the row number.
        stored: ``float32`` or ``float16``; None: as the library was made, else as the vectors are.
        name: of what made the vectors; only vectors of one name go into one library. None: as the
            library was made, else ``imported``.
        observe: told what is done, how many vectors of it are, and how many there are.

    Raises:
        UsageError: the vectors or the table cannot be read, do not fit each other, or an id occurs twice.
        LibraryError: the directory is no imported library, is in use, or cannot be written to.
        IdentityMismatch: the library's vectors are of another width, name or stored type.
    """
    begun = time.monotonic()
    for what, path in {"embeddings": embeddings, "metadata": metadata}.items():
        if path == "":  # which Path takes for the folder that we are in
            raise UsageError(f"{what}='': give a file or folder")
    vectors = open_vectors(Path(embeddings), column)
    tables = [vectors.table] if vectors.table is not None else []
    if metadata is not None:
        tables.append(open_rows(Path(metadata), [*TEXT_COLUMNS, *([id_column] if id_column else [])]))
    total = _check_counts(vectors, tables)
    columns = choose_columns(tables, vectors.column, id_column)
    config = _configure(library, vectors, stored, name)

    blocks = _cut(vectors, tables, config.stored, id_column)
    complete = set(Library(Path(library), config).units())
    left = [block for block in blocks if block.unit not in complete]
    source = Source(vectors, columns, config)
    survey = source.survey(left, observe)
    clips = count_rows(left)
    if left:
        with Library.writing(library, config) as opened:
            _refuse_held_ids(opened, survey.ids, source, left)
            opened.carry_columns(columns.carried)
            _write(opened, source, left, str(embeddings), begun, observe)
    opened = Library.open(library)
    return Imported(opened, clips, total - clips, survey.zeros, dict(columns.left_out), time.monotonic() - begun)


def _check_counts(vectors: Vectors, tables: Sequence[Rows]) -> int:
    total = vectors.parts[-1].stop
    if not total or not vectors.width:
        raise UsageError(
            f"{vectors.name}: holds no vectors ({total:,} rows of width {vectors.width}); give at least one"
        )
    for table in tables:
        if (rows := table.parts[-1].stop) != total:
            raise UsageError(
                f"{table.name} has {rows:,} rows, {vectors.name} {total:,} vectors; row i must be of vector i"
            )
    return total


def _configure(library: str | Path, vectors: Vectors, stored: str | None, name: str | None) -> LibraryConfig:
    before = Library.open(library).config if os.path.exists(os.path.join(library, "library.json")) else None
    if stored is not None and stored not in STORED:
        raise UsageError(f"stored={stored!r}: choose one of {', '.join(STORED)}")
    if name is not None and not (name.strip() and name.isprintable()):
        raise UsageError(f"name={name!r}: say in a word what made the vectors, or leave it out")
    if before is not None and before.imported:
        stored, name = stored or before.stored, name or before.encoder.get("checkpoint")
    stored = stored or ("float16" if vectors.itemsize == 2 else "float32")
    name = name or DEFAULT_NAME
    config = LibraryConfig(
        encoder={
            "checkpoint": name,
            "revision": None,
            "weights_sha256": hashlib.sha256(f"imported\0{name}\0{vectors.width}".encode()).hexdigest(),
            "pooling": None,
            "norm": None,
            "frames": None,
            "width": vectors.width,
            "precision": None,
            "imported": True,
        },
        sampling=None,
        preprocessing=None,
        stored=stored,
        columns={},
        versions={package: packages.version(package) for package in _VERSIONED},
    )
    # Said before gigabytes are read.
    if before is None:
        require_own_place(Path(library))
    else:
        before.check_continuable(str(library), config)
    return config


def _cut(vectors: Vectors, tables: Sequence[Rows], stored: str, id_column: str | None) -> list[Block]:
    """Cut each file into shards by itself: when a folder grows, the others' stay what they are."""
    size = max(min(_MOST_ROWS, _MOST_BYTES // (vectors.width * np.dtype(stored).itemsize)), 1)
    described = [part for table in tables if table is not vectors.table for part in table.parts]
    marks = {part.path: part.mark for part in [*vectors.parts, *described]}
    blocks = []
    for part in vectors.parts:
        for start in range(part.first, part.stop, size):
            stop = min(start + size, part.stop)
            beside = [marks[other.path] for other in described if other.first < stop and start < other.stop]
            digest = hashlib.sha256(repr([marks[part.path], start, stop, vectors.column, id_column, *beside]).encode())
            # Numbered, so that rows stay in the order that they came in.
            blocks.append(Block(f"{start:012}-{digest.hexdigest()[:16]}", start, stop))
    return blocks


def _refuse_held_ids(library: Library, ids: Ids, source: Source, blocks: Sequence[Block]) -> None:
    def held() -> Iterator[pa.ChunkedArray]:
        for shard in library.shards(["clip_id"]):
            yield shard["clip_id"]

    for column in held():
        ids.add(column)
    repeated = ids.find_repeated(lambda: itertools.chain(held(), source.ids(blocks)))
    if repeated is not None:
        raise LibraryError(
            f"{library.path}: holds a clip {repeated!r} already, from vectors that have changed since or from others; "
            "import into another directory, or give ids of their own (--id-column)"
        )


def _write(
    library: Library, source: Source, blocks: Sequence[Block], name: str, begun: float, observe: Observer | None
) -> None:
    entry = {"started": datetime.now(UTC).isoformat(timespec="milliseconds"), "ended": None, "imported": name}
    library.log_run(entry)
    done, total, ended = 0, count_rows(blocks), "done"
    try:
        for block, rows in zip(blocks, source.rows(blocks, library.schema), strict=True):
            library.write_unit(block.unit, rows, [])
            done += len(rows)
            if observe is not None:
                observe("writing", done, total)
    except BaseException as error:
        ended = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
        raise
    finally:
        with contextlib.suppress(LibraryError) if ended != "done" else contextlib.nullcontext():
            seconds = round(time.monotonic() - begun, 3)
            library.log_run({**entry, "ended": ended, "clips": done, "seconds": seconds})
