"""The files of an index: a folder for each state of it, and ``index.json``, which names the one that counts.

A folder is never changed once it is named, but for ``vectors.npy``, which is shared with the next and only grows:
``index.json`` says how many of its rows count. So a reader has the old state or the new one, and so has a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError
from vmae_embed.index.backend import write_faiss
from vmae_embed.library import exclusive, remove_leftovers, sync_directory, write_atomically

FORMAT = 2

LOCK = ".lock"
VECTORS, CLIPS, UNITS, FAISS, ABOUT = "vectors.npy", "clips.arrow", "units.arrow", "index.faiss", "index.json"

UNITS_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("first", pa.int64()),  # row
        ("rows", pa.int64()),
    ]
)


def read_about(folder: Path) -> dict[str, Any]:
    """Read ``index.json``; any of OSError, ValueError, KeyError, TypeError if there is none of this version."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']}; this version reads format {FORMAT}")
    return about


def map_vectors(path: Path, rows: int) -> NDArray[Any]:
    """Map the first rows of a ``.npy`` file, whatever it holds, or says that it holds, beyond."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (_, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    if not rows:
        return np.empty((0, width), dtype)
    mapped: NDArray[Any] = np.memmap(path, dtype, "r", start, (rows, width)).view(np.ndarray)
    return mapped


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow file."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keep other processes from changing an index; readers go on. Clears away what killed ones left.

    Raises:
        LibraryLocked: another process is changing it.
        LibraryError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be written ({error.strerror or error})") from error
    with exclusive(folder, "another process is indexing", name=LOCK):
        _clear_leftovers(folder)
        yield


class Draft:
    """The files of a state of an index, while they are made.

    Attributes:
        folder: of the files.
        rows: vectors that they hold.
    """

    def __init__(self, folder: Path, width: int, stored: str, *, after: tuple[Path, int] | None = None) -> None:
        """Begin it, from nothing or with the vectors of another state.

        Args:
            folder: to be made.
            width: D.
            stored: type of the vectors.
            after: folder and rows of the other state.
        """
        folder.mkdir()
        self.folder, self.rows = folder, 0
        self._counts = False
        self._path = folder / VECTORS
        self._width, self._dtype = width, np.dtype(stored)
        if after is not None:
            _share(after[0] / VECTORS, self._path)
            self.rows = after[1]
        self._file = self._path.open("r+b" if after is not None else "w+b")
        self._write_header()
        # What a killed run appended does not count.
        self._file.seek(self.rows * self._width * self._dtype.itemsize, os.SEEK_CUR)
        self._file.truncate()

    def append(self, vectors: NDArray[np.floating[Any]]) -> None:
        """Add vectors ``(B, D)``."""
        self._file.write(np.ascontiguousarray(vectors, dtype=self._dtype).tobytes())
        self.rows += len(vectors)

    def vectors(self) -> NDArray[Any]:
        """Map all that were added so far."""
        self._write_header()
        self._file.seek(0, os.SEEK_END)
        return map_vectors(self._path, self.rows)

    def write_table(self, name: str, batches: Iterable[pa.Table], schema: pa.Schema) -> None:
        """Write an Arrow file."""
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in batches:
                for batch in table.to_batches():
                    writer.write_batch(batch)

    def write_faiss(self, index: Any) -> int:
        """Write the index of FAISS, and return its bytes."""
        write_faiss(index, self.folder / FAISS)
        return (self.folder / FAISS).stat().st_size

    def finish(self) -> None:
        """Bring it all to the disk; from then on it stays."""
        self._write_header()
        self._file.close()
        for path in self.folder.iterdir():
            _sync(path)
        sync_directory(self.folder)
        self._counts = True

    def abandon(self) -> None:
        """Clear it away, unless it was finished: it may count already, and else the next run clears it away."""
        if self._counts:
            return
        with contextlib.suppress(OSError):  # a full disk, which has been told of
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_header(self) -> None:
        self._file.seek(0)
        # NumPy leaves room for a first axis that grows: the header's length stays.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.rows, self._width)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()


def next_folder(index_folder: Path) -> Path:
    """Where the next state goes."""
    return index_folder / f"{int(_folder_of(index_folder) or 0) + 1:06}"


def commit(index_folder: Path, draft: Draft, about: Mapping[str, Any]) -> None:
    """Make a draft the state that counts, and clear the one before away."""
    draft.finish()
    before = _folder_of(index_folder)
    content = {"format": FORMAT, "folder": draft.folder.name, "rows": draft.rows, **about}
    write_atomically(index_folder / ABOUT, partial(write_json, content))
    if before is not None:
        shutil.rmtree(index_folder / before, ignore_errors=True)
    for name in (VECTORS, CLIPS, FAISS):  # where the first format had them
        (index_folder / name).unlink(missing_ok=True)


def _clear_leftovers(index_folder: Path) -> None:
    remove_leftovers(index_folder)
    current = _folder_of(index_folder)
    for leftover in index_folder.iterdir():
        if leftover.is_dir() and leftover.name.isdigit() and leftover.name != current:
            shutil.rmtree(leftover, ignore_errors=True)


def _folder_of(index_folder: Path) -> str | None:
    try:
        folder = str(read_about(index_folder)["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if folder.isdigit() else None


def _share(path: Path, beside: Path) -> None:
    try:
        os.link(path, beside)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, beside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(content: Mapping[str, Any], file: BinaryIO) -> None:
    """Write JSON; for `write_atomically`."""
    file.write((json.dumps(content, indent=2) + "\n").encode())
