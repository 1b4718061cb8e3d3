"""Libraries made without an encoder, for what only reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling

PREPROCESSING = Preprocessing(32, None, (32, 32), 2, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def identity(width: int = 16, **changes):
    fields = {
        "checkpoint": "made-up",
        "revision": None,
        "weights_sha256": "0" * 64,
        "pooling": "mean",
        "norm": "layernorm of the tokens",
        "frames": 16,
        "width": width,
        "precision": "float32",
    }
    return {**fields, **changes}


def make_library(
    folder: Path,
    vectors: np.ndarray,
    *,
    clips_a_video: int = 4,
    stored: str = "float32",
    tokens: np.ndarray | None = None,
) -> Library:
    """A library whose i-th row has the i-th vector, and the i-th tokens; touching clips of two seconds."""
    count = None if tokens is None else tokens.shape[1]
    config = LibraryConfig(identity(vectors.shape[1]), Sampling(), PREPROCESSING, stored, {}, {}, tokens=count)
    library = Library.create(folder, config)
    add_clips(library, vectors, clips_a_video=clips_a_video, tokens=tokens)
    return library


def add_clips(
    library: Library,
    vectors: np.ndarray,
    *,
    clips_a_video: int = 4,
    prefix: str = "v",
    first_unit: int = 0,
    tokens: np.ndarray | None = None,
) -> None:
    """Write units whose clips have these vectors and tokens, in order."""
    videos_a_unit = 200
    step = clips_a_video * videos_a_unit
    for number, start in enumerate(range(0, len(vectors), step), first_unit):
        tables = [library.schema.empty_table()]
        for first in range(start, min(start + step, len(vectors)), clips_a_video):
            block = vectors[first : min(first + clips_a_video, len(vectors))]
            name = f"{prefix}{first // clips_a_video:05}.mp4"
            spans = [ClipSpan(2.0 * i, 2.0 * i + 2, ()) for i in range(len(block))]
            timeline = Timeline(np.zeros(1), 2.0 * len(block), 30, 64, 48, "h264")
            tables.append(clip_rows(Video(name, f"/videos/{name}", 1, 1), timeline, spans, block, library.schema))
        spool, kept = library.spool_tokens(f"{number:016x}"), range(0)
        if spool is not None:
            kept, _ = spool.append(tokens[start : start + step])
        library.write_unit(f"{number:016x}", pa.concat_tables(tables), [], spool, kept)


def clustered(count: int, width: int, *, clusters: int = 50, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """Unit-free float32 vectors around random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, width))
    vectors = centres[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, width))
    return (vectors * rng.uniform(0.5, 2, (count, 1))).astype(np.float32)


def break_embedding(library: Library, unit: str, row: int, value: float) -> None:
    """Put a number into a shard that the package would not write."""
    path = library.path / f"clips/{unit}.parquet"
    table = pq.read_table(path)
    numbers = table["embedding"].combine_chunks().flatten().to_numpy().copy()
    numbers[row * library.width] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers), library.width)
    pq.write_table(table.set_column(table.schema.get_field_index("embedding"), "embedding", column), path)
