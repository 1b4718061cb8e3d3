"""Export: what is asked for checked first, then written under another name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.exporter.place import check_place, placing, size_of
from vmae_embed.exporter.rows import Clips, Observer, check_lance, write_lance, write_npy, write_parquet, write_parts
from vmae_embed.exporter.searchable import write_faiss
from vmae_embed.library import Library

KINDS = ("npy", "parquet", "faiss", "lance")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: file or folder.
        clips: N.
        bytes: of all its files.
        seconds: wall time.
    """

    path: Path
    clips: int
    bytes: int
    seconds: float


def export(
    library: Library, out: str | Path, kind: str, *, overwrite: bool = False, observe: Observer | None = None
) -> Exported:
    """Write a library's embeddings for other tools.

    Embeddings are as in the library: of its stored type, not normalised.

    Args:
        library: to export; it is not changed, but that ``faiss`` brings its index up to date.
        out: file or folder to write.
        kind: ``npy`` (a folder of ``embeddings.npy`` and ``metadata.parquet``), ``parquet`` (a file if
            ``out`` ends with ``.parquet``, else a folder of parts), ``faiss`` (a folder of ``index.faiss``
            and ``clips.parquet``) or ``lance`` (a dataset).
        overwrite: replace an earlier export there.
        observe: told what is done, how many rows of it are, and how many there are.

    Raises:
        UsageError: no such kind, or something else is at ``out``.
        LibraryError: a shard cannot be read, there are no clips, or ``out`` cannot be written.
        SearchIndexError: there is no FAISS, or no index can be built.
    """
    begun = time.monotonic()
    if kind not in KINDS:
        raise UsageError(f"to={kind!r}: choose one of {', '.join(KINDS)}")
    path = Path(out)
    is_file = kind == "parquet" and path.suffix.lower() == ".parquet"
    if kind != "parquet" and path.suffix.lower() in (".npy", ".parquet", ".faiss"):
        raise UsageError(f"{path}: --to {kind} writes a folder; give a name without {path.suffix}")
    check_place(path, library.path, is_file=is_file, overwrite=overwrite)
    if kind == "lance":
        check_lance()
    clips = Clips(library, observe)
    if not clips.count:
        raise LibraryError(
            f"{library.path}: holds no clips to export; `vmae-embed info {library.path}` says what it does"
        )
    count = clips.count
    with placing(path) as temporary:
        if kind == "npy":
            write_npy(clips, temporary)
        elif kind == "lance":
            write_lance(clips, temporary)
        elif kind == "faiss":
            count = write_faiss(library, temporary, observe)
        elif is_file:
            write_parquet(clips, temporary)
        else:
            write_parts(clips, temporary)
    return Exported(path, count, size_of(path), time.monotonic() - begun)
