"""Writing a file so that nobody ever sees half of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vmae_embed.errors import LibraryError

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write under a temporary name in the same directory, sync, rename.

    Raises:
        LibraryError: the directory cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LibraryError(
            f"{path}: cannot be written ({error.strerror or error}); what was committed before stays whole"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(folder: Path) -> None:
    """Make a rename or a removal in a directory survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left under temporary names."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
