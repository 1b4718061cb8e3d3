"""A library's index for FAISS alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vmae_embed.exporter.rows import parquet_writer
from vmae_embed.index import Index, import_faiss
from vmae_embed.library import Library

_GROUP_ROWS = 65_536

_README = """\
{factory}: {count:,} vectors of {width} numbers, by inner product of unit vectors{probes}.
FAISS's ids are the column "id" of clips.parquet. To search:

import faiss, numpy as np, pandas as pd
index, clips = faiss.read_index("index.faiss"), pd.read_parquet("clips.parquet").set_index("id")
queries = np.load("queries.npy").astype("float32")  # (Q, {width}), of the encoder that made the library
faiss.normalize_L2(queries)
scores, ids = index.search(queries, 10)  # an id of -1: fewer were found
print(clips.loc[[i for i in ids[0] if i >= 0], "clip_id"])
"""


def write_faiss(library: Library, folder: Path) -> None:
    """Write ``index.faiss``, ``clips.parquet`` and ``README.txt``.

    Raises:
        SearchIndexError: there is no FAISS, or no index can be built.
    """
    faiss = import_faiss()
    index = Index.open(library)
    folder.mkdir()
    searched = _whole(faiss, index)
    probes = ""
    if index.about["nprobe"] is not None:
        faiss.extract_index_ivf(searched).nprobe = index.about["nprobe"]
        probes = f"; nprobe {index.about['nprobe']} is set in the file"
    try:
        faiss.write_index(searched, str(folder / "index.faiss"))
    except RuntimeError as error:
        raise OSError(f"FAISS: {error}") from error
    _write_clips(index, folder / "clips.parquet")
    text = _README.format(factory=index.about["factory"], count=len(index), width=library.width, probes=probes)
    (folder / "README.txt").write_text(text, encoding="utf-8")


def _whole(faiss: Any, index: Index) -> Any:
    """The FAISS index, with the ids that `Index` has; of clips that are in the library, and no others."""
    live = index.live
    if index.about["nprobe"] is not None:
        searched = index._index
        gone = np.setdiff1d(np.arange(index.clips.num_rows), live)
        if len(gone):
            searched.remove_ids(gone)
        return searched
    searched = faiss.IndexFlatIP(index.library.width)
    if len(live) < index.clips.num_rows:
        searched = faiss.IndexIDMap2(searched)
    for start in range(0, len(live), _GROUP_ROWS):
        rows = live[start : start + _GROUP_ROWS]
        vectors = index.vectors(rows)
        if len(live) < index.clips.num_rows:
            searched.add_with_ids(vectors, rows)
        else:
            searched.add(vectors)
    return searched


def _write_clips(index: Index, path: Path) -> None:
    schema = index.clips.schema.insert(0, pa.field("id", pa.int64()))
    with parquet_writer(path, schema) as writer:
        for start in range(0, len(index.live), _GROUP_ROWS):
            rows = pa.array(index.live[start : start + _GROUP_ROWS], pa.int64())
            writer.write_table(index.clips.take(rows).add_column(0, schema.field(0), rows))
