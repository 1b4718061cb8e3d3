"""Which columns of users' tables become which of a library, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.importer.rows import Range, Rows
from vmae_embed.library import RESERVED
from vmae_embed.records import clip_id

# Columns of every library, by what their values must be; the first ones decide what a row is.
_IDS = ("clip_id", "video_id")
_TIMES = ("start_s", "end_s")
_TEXTS = ("path", "codec", "fingerprint")
_NUMBERS = ("fps", "duration_s")
_WHOLE = ("width", "height")
_DECISIVE = {*_IDS, *_TIMES, "path"}
# Left as they are written in CSV: 007 is no 7.
TEXT_COLUMNS = (*_IDS, *_TEXTS)


@dataclass(frozen=True)
class Columns:
    """What is taken of the tables.

    Attributes:
        tables: what to read: tables, and names of their columns.
        id_column: whose values are clip ids; None if they are made of others.
        carried: columns that no library has of its own, and their types.
        left_out: columns that are not taken, and why.
    """

    tables: tuple[tuple[Rows, tuple[str, ...]], ...]
    id_column: str | None
    carried: Mapping[str, str]
    left_out: Mapping[str, str]

    def read(self, ranges: Sequence[Range]) -> Iterator[dict[str, pa.ChunkedArray]]:
        """Read ascending ranges of rows: their columns by name, for each.

        Raises:
            UsageError: a table cannot be read.
        """
        streams = [table.read(ranges, names) for table, names in self.tables]
        for _ in ranges:
            yield {name: column for stream in streams for name, column in _by_name(next(stream)).items()}


def choose_columns(tables: Sequence[Rows], vector_column: str | None, id_column: str | None) -> Columns:
    """Decide what is taken of tables.

    Args:
        tables: what is known of the vectors; row i of each is of vector i.
        vector_column: that holds the vectors themselves.
        id_column: that holds clip ids, as the user says; None for ``clip_id``.

    Raises:
        UsageError: two tables have a column of one name, the id column is not there, or one that says
            what a row is has values of a wrong type.
    """
    owners: dict[str, Rows] = {}
    for table in tables:
        for name in table.schema.names:
            if name != vector_column and owners.setdefault(name, table) is not table:
                raise UsageError(f"{owners[name].name} and {table.name}: both have a column {name!r}; drop one")
    types = {name: table.schema.field(name).type for name, table in owners.items()}
    if id_column is not None and id_column not in types:
        there = ", ".join(list(types)[:20]) or "none: give --metadata"
        raise UsageError(f"--id-column {id_column!r}: no such column; there are {there}")
    ids = id_column or ("clip_id" if "clip_id" in types else None)
    if len({*_TIMES} & set(types)) == 1:
        raise UsageError(f"{owners.get('start_s', owners.get('end_s')).name}: give both start_s and end_s, or neither")  # type: ignore[union-attr]
    carried: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, kind in types.items():
        fits = _kind(kind)
        if name == ids:
            if fits not in ("string", "int64"):
                raise UsageError(f"{owners[name].name}: column {name!r} is {kind}; clip ids are text or whole numbers")
        elif name == "clip_id":
            left_out[name] = "ids are those of --id-column"
        elif name in RESERVED:
            wanted = _wanted(name)
            if not wanted:
                left_out[name] = "the vectors are others" if name == "embedding" else "every hit has one of its own"
            elif fits not in wanted:
                if name in _DECISIVE:
                    raise UsageError(f"{owners[name].name}: column {name!r} is {kind}, not {' or '.join(wanted)}")
                left_out[name] = f"{kind}, not {' or '.join(wanted)}"
        elif fits is None:
            left_out[name] = str(kind)
        else:
            carried[name] = fits
    taken = [name for name in types if name not in left_out]
    chosen = [(table, tuple(name for name in taken if owners[name] is table)) for table in tables]
    return Columns(tuple((table, names) for table, names in chosen if names), ids, carried, left_out)


def make_rows(
    columns: Mapping[str, pa.ChunkedArray],
    id_column: str | None,
    vectors: NDArray[np.floating[Any]],
    first: int,
    schema: pa.Schema,
) -> pa.Table:
    """Make rows of a library.

    Args:
        columns: of the rows, by name.
        id_column: whose values are clip ids; None to make them.
        vectors: ``(B, D)`` of the stored type.
        first: number of the first of the rows.
        schema: of the library.

    Raises:
        UsageError: a value that says what a row is is missing, or a value does not fit its column.
    """
    count = len(vectors)
    made = {name: _cast(columns[name], name, schema.field(name).type) for name in columns if name in schema.names}
    for name in ("path", "fingerprint"):  # empty if not known, as hits have them
        made[name] = pc.fill_null(made[name], "") if name in made else pa.repeat("", count)
    for name in _TIMES:
        made.setdefault(name, pa.repeat(0.0, count))
        _refuse(name, first, ~np.isfinite(made[name].to_numpy()), "is missing or not finite")
    _refuse("end_s", first, made["end_s"].to_numpy() < made["start_s"].to_numpy(), "is before start_s")
    videos = made.get("video_id", made["path"] if "path" in columns else None)
    if videos is not None:
        _refuse("video_id" if "video_id" in made else "path", first, _blank(videos), "is missing")
    if id_column is not None:
        ids = _cast(columns[id_column], id_column, pa.string())
    elif videos is not None and "start_s" in columns:
        times = (made[name].to_pylist() for name in _TIMES)
        ids = pa.array([clip_id(*row) for row in zip(videos.to_pylist(), *times, strict=True)], pa.string())
    else:
        ids = pa.array([str(row) for row in range(first, first + count)], pa.string())
    _refuse(id_column or "clip_id", first, _blank(ids), "is missing")
    made["clip_id"], made["video_id"] = ids, ids if videos is None else videos
    kind = schema.field("embedding").type
    made["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), kind.list_size)
    return pa.table([made.get(field.name, pa.nulls(count, field.type)) for field in schema], schema=schema)


def _by_name(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _wanted(name: str) -> tuple[str, ...]:
    if name in _IDS:
        return ("string", "int64")
    if name in _TEXTS:
        return ("string",)
    if name in (*_TIMES, *_NUMBERS):
        return ("double", "int64")
    return ("int64",) if name in _WHOLE else ()


def _kind(kind: pa.DataType) -> str | None:
    """Which of the types that a library carries holds all values of another; None if none does."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "int64"
    if pa.types.is_floating(kind):
        return "double"
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return "string" if is_text else None


def _cast(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        cast = column.cast(kind)
        cast.validate(full=True)  # text that is no UTF-8 would be met by whoever reads it
    except pa.ArrowException as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"column {name!r} cannot be {kind} ({detail}); mend it, or drop it") from error
    return cast


def _blank(texts: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(pc.fill_null(texts, ""), ""))


def _refuse(name: str, first: int, wrong: NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise UsageError(
            f"row {first + int(np.argmax(wrong)):,}, counted from 0: its {name} {what}; mend it, or drop it"
        )
