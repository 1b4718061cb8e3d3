"""The Parquet files of a library: their schema, and reading and writing them whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError
from vmae_embed.library.files import write_atomically
from vmae_embed.records import ClipSpan, Failure, Timeline, Video, clip_id

STORED = {"float32": pa.float32(), "float16": pa.float16()}

# What a carried column may be. A manifest's are all but float; what is none of these is carried as text.
CARRIED = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
}

# What the checkpoint's classifier says of a clip; carried like a manifest's columns.
LABEL_COLUMNS = {"label": "string", "label_probability": "float"}

CLIP_COLUMNS = ("clip_id", "video_id", "start_s", "end_s", "embedding")
_BEFORE_EMBEDDING = [
    ("clip_id", pa.string()),
    ("video_id", pa.string()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
]
_AFTER_EMBEDDING = [
    ("path", pa.string()),
    ("fps", pa.float64()),
    ("duration_s", pa.float64()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("codec", pa.string()),
    ("fingerprint", pa.string()),
]
# The last three are a hit's own.
RESERVED = frozenset(name for name, _ in [*_BEFORE_EMBEDDING, *_AFTER_EMBEDDING]) | {
    "embedding",
    "rank",
    "score",
    "query",
}

FAILURE_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("fingerprint", pa.string()),
    ]
)


def clip_schema(width: int, stored: str, carried: Mapping[str, str]) -> pa.Schema:
    """Schema of a shard: D = ``width`` numbers of type ``stored``, and the carried columns."""
    embedding = ("embedding", pa.list_(STORED[stored], width))
    columns = [(name, CARRIED[kind]) for name, kind in carried.items()]
    return pa.schema([*_BEFORE_EMBEDDING, embedding, *_AFTER_EMBEDDING, *columns])


def clip_rows(
    video: Video,
    timeline: Timeline,
    spans: Sequence[ClipSpan],
    embeddings: NDArray[np.floating[Any]],
    schema: pa.Schema,
    columns: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> pa.Table:
    """Make the rows of one video's clips.

    Args:
        video: whose clips they are.
        timeline: of the video.
        spans: B clips.
        embeddings: ``(B, D)``.
        schema: from `clip_schema`.
        columns: carried columns of which each clip has a value of its own, B of them.
    """
    embedding_type = schema.field("embedding").type
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=embedding_type.value_type.to_pandas_dtype()).ravel())
    count = len(spans)
    values = {
        "clip_id": [clip_id(video.id, span.start_s, span.end_s) for span in spans],
        "video_id": [video.id] * count,
        "start_s": [span.start_s for span in spans],
        "end_s": [span.end_s for span in spans],
        "embedding": pa.FixedSizeListArray.from_arrays(flat, embedding_type.list_size),
        "path": [video.path] * count,
        "fps": [timeline.fps] * count,
        "duration_s": [timeline.duration_s] * count,
        "width": [timeline.width] * count,
        "height": [timeline.height] * count,
        "codec": [timeline.codec] * count,
        "fingerprint": [video.fingerprint] * count,
        **{name: [video.columns.get(name)] * count for name in schema.names if name not in RESERVED},
        **columns,
    }
    return pa.table([values[name] for name in schema.names], schema=schema)


def failure_rows(failures: Sequence[Failure]) -> pa.Table:
    """Make the rows of failed videos."""
    columns = [[getattr(failure, name) for failure in failures] for name in FAILURE_SCHEMA.names]
    return pa.table(columns, schema=FAILURE_SCHEMA)


def write_shard(path: Path, table: pa.Table) -> None:
    """Commit one Parquet file, with page checksums for `verify`."""
    # Embeddings hardly repeat: a dictionary of them is as large again.
    repeating = [name for name in table.column_names if name != "embedding"]
    write_atomically(
        path,
        lambda file: pq.write_table(
            table, file, compression="zstd", use_dictionary=repeating, write_page_checksum=True
        ),
    )


def read_shard(
    path: Path, schema: pa.Schema | None = None, *, optional: Collection[str] = (), check: bool = False
) -> pa.Table:
    """Read one Parquet file.

    Args:
        path: of the shard.
        schema: columns to read, with their types; None for all, as they are.
        optional: columns of ``schema`` that it may lack.
        check: verify the checksum of every page.

    Raises:
        LibraryError: it cannot be read, or its columns are others.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=check) as file:
            if schema is None:
                return file.read()
            if wrong := misfits(file.schema_arrow, schema, optional):
                raise LibraryError(f"{path}: {wrong[0]}; delete it and run extract or import again")
            return file.read([name for name in schema.names if name in file.schema_arrow.names])
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name that is no UTF-8
        raise _unreadable(path, error) from error


def misfits(found: pa.Schema, wanted: pa.Schema, optional: Collection[str] = ()) -> list[str]:
    """Say which columns of a file are missing, or are not what they should be."""
    types = dict(zip(found.names, found.types, strict=True))
    return [
        f"column {field.name} is {types.get(field.name, 'missing')}, not {field.type}"
        for field in wanted
        if types.get(field.name, field.type if field.name in optional else None) != field.type
    ]


def is_outdated(row: Mapping[str, Any], video: Video, columns: Collection[str]) -> bool:
    """Whether a held clip's path or carried values are not those that its video is listed with."""
    if row["fingerprint"] != video.fingerprint:
        return False
    pairs = [(row["path"], video.path), *((row.get(name), video.columns.get(name)) for name in columns)]
    return any(a != b and not (a != a and b != b) for a, b in pairs)  # NaN is NaN


def with_listed_values(clips: pa.Table, videos: Mapping[str, Video], columns: Collection[str]) -> pa.Table:
    """Replace paths and carried values by those that videos, by id, are listed with."""
    ids = clips["video_id"].to_pylist()
    for name in ("path", *columns):
        values = clips[name].to_pylist()
        for row, video_id in enumerate(ids):
            if video_id in videos:
                video = videos[video_id]
                values[row] = video.path if name == "path" else video.columns.get(name)
        place = clips.schema.get_field_index(name)
        clips = clips.set_column(place, clips.schema.field(place), pa.array(values, clips.schema.field(place).type))
    return clips


def count_rows(path: Path) -> int:
    """Rows of a Parquet file, from its footer.

    Raises:
        LibraryError: it cannot be read.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> LibraryError:
    detail = " ".join(str(error).split())[:200]
    return LibraryError(f"{path}: cannot be read ({detail}); delete it and run extract or import again")


def to_matrix(embeddings: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """Turn an ``embedding`` column into ``(B, D)`` float32."""
    chunks = [np.asarray(chunk.flatten()).reshape(-1, width) for chunk in embeddings.chunks]
    return np.concatenate([np.empty((0, width), np.float32), *chunks]).astype(np.float32, copy=False)
