"""A library's index for FAISS alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vmae_embed.exporter.rows import Observer, parquet_writer
from vmae_embed.index import Index, import_faiss
from vmae_embed.index.backend import write_faiss as write_faiss_file
from vmae_embed.library import Library

_GROUP_ROWS = 65_536

_SCORES = {
    "cosine": "inner products of unit vectors, which are cosine similarities: higher is better",
    "ip": "inner products: higher is better",
    "l2": "squared Euclidean distances: lower is better",
}
_README = """\
{factory}: {count:,} vectors of {width} numbers{probes}.
Scores are {scores}{codes}.
FAISS's ids are the column "id" of clips.parquet. To search:

import faiss, numpy as np, pandas as pd
index, clips = faiss.read_index("index.faiss"), pd.read_parquet("clips.parquet").set_index("id")
queries = np.load("queries.npy").astype("float32")  # (Q, {width}), of what made the library's embeddings
{normalise}scores, ids = index.search(queries, 10)  # an id of -1: fewer were found
print(clips.loc[[i for i in ids[0] if i >= 0], "clip_id"])
"""


def write_faiss(library: Library, folder: Path, observe: Observer | None) -> int:
    """Write ``index.faiss``, ``clips.parquet`` and ``README.txt``.

    Returns:
        How many clips are in them.

    Raises:
        SearchIndexError: there is no FAISS, or no index can be built.
    """
    faiss = import_faiss()
    index = Index.open(library, observe=observe)
    folder.mkdir()
    probes = codes = ""
    if index.effort is None:
        written = _exact(faiss, index)
    else:
        # Set in the file: FAISS alone would visit a single cell.
        written = index.ann
        written.nprobe = index.effort.nprobe
        quantizer = faiss.downcast_index(written.quantizer)
        if isinstance(quantizer, faiss.IndexHNSW):
            quantizer.hnsw.efSearch = max(2 * index.effort.nprobe, 64)
        probes = f"; nprobe {index.effort.nprobe} is set in the file"
        codes = " (of its codes; vmae-embed ranks what it finds by the stored vectors)"
    write_faiss_file(written, folder / "index.faiss")
    _write_clips(index, folder / "clips.parquet")
    text = _README.format(
        factory=index.about["factory"],
        count=len(index),
        width=library.width,
        probes=probes,
        scores=_SCORES[index.metric],
        codes=codes,
        normalise="faiss.normalize_L2(queries)\n" if index.metric == "cosine" else "",
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")
    return len(index)


def _exact(faiss: Any, index: Index) -> Any:
    """What the library searches without FAISS, as FAISS has it; with the ids that `Index` has."""
    live, width = index.live, index.library.width
    flat = faiss.IndexFlatL2(width) if index.metric == "l2" else faiss.IndexFlatIP(width)
    has_holes = len(live) < index.clips.num_rows
    written = faiss.IndexIDMap2(flat) if has_holes else flat
    for start in range(0, len(live), _GROUP_ROWS):
        rows = live[start : start + _GROUP_ROWS]
        if has_holes:
            written.add_with_ids(index.vectors(rows), rows)
        else:
            written.add(index.vectors(rows))
    return written


def _write_clips(index: Index, path: Path) -> None:
    schema = index.clips.schema.insert(0, pa.field("id", pa.int64()))
    with parquet_writer(path, schema) as writer:
        for start in range(0, len(index.live), _GROUP_ROWS):
            rows = np.asarray(index.live[start : start + _GROUP_ROWS], dtype=np.int64)
            writer.write_table(index.clips.take(pa.array(rows)).add_column(0, schema.field(0), pa.array(rows)))
