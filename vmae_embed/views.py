"""Libraries of the same videos that are looked at together: a directory with a library for each of a preset's views."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import IdentityMismatch, LibraryError, UsageError
from vmae_embed.library import Library, LibraryConfig, require_own_place, write_atomically
from vmae_embed.presets import Preset, find_preset

_FILE = "preset.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Views:
    """A preset's views, or one library by itself.

    Attributes:
        path: that the user names.
        preset: whose views they are; None of a library.
        libraries: in the preset's order; the first is cropped in the centre.
    """

    path: Path
    preset: Preset | None
    libraries: tuple[Library, ...]

    @property
    def config(self) -> LibraryConfig:
        """Of the first view."""
        return self.libraries[0].config

    def whole_videos(self) -> set[str]:
        """Ids of the videos that every view holds: what failed in one is not passed off as seen in all."""
        return set.intersection(*(set(library.column("video_id")) for library in self.libraries))


def as_views(library: Library | Views) -> Views:
    """Take a library for the one view of its videos."""
    return library if isinstance(library, Views) else Views(library.path, None, (library,))


def open_views(path: str | Path) -> Views:
    """Open a directory of views, or a library.

    Raises:
        LibraryError: it is neither, or lacks a view.
    """
    folder = Path(path)
    preset = preset_of(folder)
    if preset is None:
        return Views(folder, None, (Library.open(folder),))
    missing = [view.name for view in preset.views if not (folder / view.name / "library.json").exists()]
    if missing:
        raise LibraryError(
            f"{folder}: the views {', '.join(missing)} are missing; run `vmae-embed extract VIDEOS -o {folder}` again"
        )
    first, *others = libraries = tuple(Library.open(folder / view.name) for view in preset.views)
    for library in others:
        # Clips may be cut and cropped otherwise, and nothing else.
        alike = replace(library.config, sampling=first.config.sampling, preprocessing=first.config.preprocessing)
        try:
            first.check_continuable(alike)
        except IdentityMismatch:
            raise LibraryError(
                f"{library.path} was made otherwise than {first.path} (compare with `vmae-embed info`); "
                f"delete it, and run `vmae-embed extract VIDEOS -o {folder}` again"
            ) from None
    return Views(folder, preset, libraries)


def preset_of(folder: Path) -> Preset | None:
    """Say whose views a directory holds; None where it holds none.

    Raises:
        LibraryError: what says so is damaged.
    """
    try:
        about = json.loads((folder / _FILE).read_bytes())
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']}; this version reads format {_FORMAT}")
        return find_preset(about["preset"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LibraryError(f"{folder}/{_FILE}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise LibraryError(f"{folder}/{_FILE}: not what this version writes ({error})") from error


def begin_views(folder: Path, preset: Preset) -> None:
    """Make a directory for a preset's views, or go on with one.

    Raises:
        LibraryError: it holds something else, or cannot be written to.
    """
    check_place(folder, preset)
    if preset_of(folder) is None:
        write_atomically(folder / _FILE, partial(_write, preset))


def check_place(folder: Path, preset: Preset) -> None:
    """Refuse a directory that holds something else than a preset's views.

    Raises:
        LibraryError: saying what.
    """
    before = preset_of(folder)
    if before is None:
        if (folder / "library.json").exists():
            raise LibraryError(f"{folder}: a library by itself; give another directory for the views of {preset.name}")
        require_own_place(folder)
    elif before != preset:
        raise LibraryError(f"{folder}: holds views of --preset {before.name}; give another directory for {preset.name}")


def rows_of_each(names: Sequence[str]) -> list[NDArray[np.intp]]:
    """Return the rows of each name, in order of its first: all looks at one clip, or at one video."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [np.array(several) for several in rows.values()]


def _write(preset: Preset, file: BinaryIO) -> None:
    file.write((json.dumps({"format": _FORMAT, "preset": preset.name}) + "\n").encode())
