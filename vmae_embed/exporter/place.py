"""Where an export goes: nothing of a user's is lost for it, and nothing half of it is left."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.library import sync_directory, temporary_name

# What a folder may hold that is replaced: files of exports, or Lance's own folders.
_OURS = re.compile(r"embeddings\.npy|metadata\.parquet|clips\.parquet|index\.faiss|README\.txt|part-\d+\.parquet")
_LANCE = re.compile(r"data|_versions|_transactions|_indices|_deletions|_refs")


def check_place(out: Path, library: Path, *, is_file: bool, overwrite: bool) -> None:
    """Refuse a place that an export must not take.

    Args:
        out: file or folder to write.
        library: that is exported.
        is_file: whether a file is to be written, not a folder.
        overwrite: whether an earlier export there may be replaced.

    Raises:
        UsageError: something is there that is not to be replaced, or the library itself.
    """
    here, there = out.resolve(), library.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(f"{out}: is the library, in it, or around it; give a place of its own after -o")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or is_file != out.is_file():
        what = "a link" if out.is_symlink() else "a folder" if out.is_dir() else "a file"
        raise UsageError(
            f"{out}: is {what}, and a {'file' if is_file else 'folder'} is to be written; give another name"
        )
    inside = [] if is_file else _list(out)
    if not overwrite and (is_file or inside):
        raise UsageError(f"{out}: exists; give another name, or --overwrite")
    ours = _LANCE if "_versions" in inside else _OURS
    foreign = sorted(name for name in inside if not ours.fullmatch(name))
    if "README.txt" in inside and "index.faiss" not in inside:
        foreign.append("README.txt")
    if foreign:
        raise UsageError(f"{out}: holds {foreign[0]}, which no export writes; give another name")


@contextlib.contextmanager
def placing(out: Path) -> Iterator[Path]:
    """Give what is written under another name its name when it is whole.

    Raises:
        LibraryError: it cannot be written.
    """
    temporary = temporary_name(out)
    before = out.with_name(f".{out.name}.old")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        _sync(temporary)
        if out.is_dir():  # no rename replaces a folder that is not empty
            _remove(before)
            out.replace(before)
        try:
            temporary.replace(out)
        except BaseException:
            if before.exists():
                before.replace(out)
            raise
        _remove(before)
        sync_directory(out.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may be why the export could not be written
            _remove(temporary)
        if not isinstance(error, OSError):
            raise
        raise LibraryError(f"{out}: cannot be written ({error.strerror or error}); nothing was exported") from error


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in _files(path))


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror}); give another name") from error


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _sync(path: Path) -> None:
    for file in _files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        sync_directory(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
