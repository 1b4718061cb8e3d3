"""Writing a file so that nobody ever sees half of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vmae_embed.errors import LibraryError, LibraryLocked

TEMPORARY_SUFFIX = ".tmp"


def temporary_name(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write under a temporary name in the same directory, sync, rename.

    Raises:
        LibraryError: the directory cannot be written to, or the disk is full.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            sync_file(file)
        put_in_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may be why the file could not be written
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> LibraryError:
    """Say in a line that a file could not be written."""
    return LibraryError(f"{path}: cannot be written ({error.strerror or error}); what was committed before stays whole")


def sync_file(file: BinaryIO) -> None:
    """Make what was written to a file survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file, written and synced, its name."""
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make a rename or a removal in a directory survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems sync no directories
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left under temporary names."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: Path, busy: str, *, name: str | None = None, wait: bool = False) -> Iterator[None]:
    """Keep other processes out that ask for the same.

    The lock is the operating system's: it ends with the process.

    Args:
        folder: what they are kept out of.
        busy: what to say when another process has it.
        name: of a file in it, made if missing, that is locked in its place: network file systems lock files only.
        wait: until no other has it, instead.

    Raises:
        LibraryLocked: another process has it.
        LibraryError: it cannot be opened.
    """
    try:
        descriptor = os.open(folder / (name or ""), os.O_RDWR | os.O_CREAT if name else os.O_RDONLY, 0o666)
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be opened ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            # Some network file systems lock no directories: the units that go there are idempotent.
            if name and error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise LibraryError(
                    f"{folder}: this file system has no locks ({error.strerror}); use another"
                ) from error
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LibraryLocked(f"{folder}: {busy}; wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)


def require_own_place(folder: Path) -> None:
    """Refuse to make a library where something else is.

    Raises:
        LibraryError: it is a file, or a directory that is not empty.
    """
    # All that a run leaves that was killed while it made a library, or a directory of views: the next overwrites it.
    leftovers = {temporary_name(folder / name).name for name in ("library.json", "preset.json")}
    try:
        foreign = set(os.listdir(folder)) - leftovers
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise LibraryError(f"{folder}: a file, not a directory; give another name") from None
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be read ({error.strerror}); give another name") from error
    if foreign:
        raise LibraryError(f"{folder}: not a library, and not empty; give a new directory")
