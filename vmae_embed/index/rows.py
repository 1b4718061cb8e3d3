"""From shards to the rows of an index: which units changed, their clips and vectors, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, SearchIndexError
from vmae_embed.index.generation import UNITS_SCHEMA, Draft
from vmae_embed.index.similarity import normalise
from vmae_embed.library import Library, to_matrix

# What a hit tells of a clip; read as they are, without the embeddings.
CLIP_COLUMNS = ("clip_id", "video_id", "start_s", "end_s", "path", "fingerprint")

Signatures: TypeAlias = Mapping[str, tuple[int, int]]
# Told what is being done, how much of it is done, and how much there is.
Observer: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UnitRows:
    """Where the clips of a unit lie among an index's rows, and of which state of its shard they are."""

    unit: str
    size: int
    mtime_ns: int
    first: int
    rows: int

    @property
    def signature(self) -> tuple[int, int]:
        """As `vmae_embed.library.Library.signatures` gives it."""
        return self.size, self.mtime_ns


def units_table(units: list[UnitRows]) -> pa.Table:
    """Make a table of units, for ``units.arrow``."""
    columns = [[getattr(unit, name) for unit in units] for name in UNITS_SCHEMA.names]
    return pa.table(columns, schema=UNITS_SCHEMA)


def units_of(table: pa.Table) -> list[UnitRows]:
    """Read back what `units_table` made."""
    return [UnitRows(**row) for row in table.to_pylist()]


def rows_of(units: list[UnitRows]) -> NDArray[np.int64]:
    """Ascending rows of some units."""
    ranges = [np.arange(unit.first, unit.first + unit.rows) for unit in units]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *ranges]))


def clips_schema(library: Library) -> pa.Schema:
    """Of ``clips.arrow``."""
    return pa.schema([library.schema.field(name) for name in [*CLIP_COLUMNS, *library.config.columns]])


def append_units(
    draft: Draft,
    library: Library,
    signatures: Signatures,
    metric: str,
    appended: list[UnitRows],
    observe: Observer | None = None,
) -> Iterator[pa.Table]:
    """Append the vectors of units to a draft, and yield their clips in the same order.

    A unit that is rewritten or removed meanwhile is passed over: the index is then behind, and follows later.

    Args:
        draft: that takes the vectors.
        library: whose units they are.
        signatures: of the units.
        metric: under ``cosine``, vectors are scaled to unit length.
        appended: takes where each unit's clips lie.
        observe: is told how many units are through.

    Raises:
        LibraryError: a shard cannot be read.
        SearchIndexError: a vector holds numbers that are not finite.
    """
    for done, (unit, (size, mtime_ns)) in enumerate(signatures.items()):
        if observe is not None:
            observe("reading shards", done, len(signatures))
        matrix, clips = read_unit(library, unit)
        if clips is None or library.signature_of(unit) != (size, mtime_ns):
            continue
        appended.append(UnitRows(unit, size, mtime_ns, draft.rows, len(matrix)))
        draft.append(prepare(matrix, metric))
        yield clips


def read_unit(library: Library, unit: str) -> tuple[NDArray[np.float32], pa.Table | None]:
    """Vectors ``(B, D)`` of a unit and its clips; None if it is gone.

    Raises:
        LibraryError: the shard cannot be read.
        SearchIndexError: a vector holds numbers that are not finite.
    """
    schema = clips_schema(library)
    try:
        (shard,) = library.shards([*schema.names, "embedding"], [unit])
    except LibraryError:
        if library.signature_of(unit) is None:
            return np.empty((0, library.width), np.float32), None
        raise
    matrix = to_matrix(shard["embedding"], library.width)
    broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(broken):
        raise SearchIndexError(
            f"{library.path}: clips/{unit}.parquet holds embeddings that are not finite "
            f"({len(broken)} of {len(matrix)}, the first of {shard['clip_id'][int(broken[0])]}); "
            "delete it and run extract again"
        )
    rows = pa.concat_tables([schema.empty_table(), shard.drop_columns("embedding")], promote_options="default")
    return matrix, rows.select(schema.names)


def prepare(vectors: NDArray[np.floating[Any]], metric: str) -> NDArray[np.floating[Any]]:
    """Vectors ``(B, D)`` as an index of that metric holds them."""
    return normalise(vectors) if metric == "cosine" else vectors
