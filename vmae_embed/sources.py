"""From what the user names to videos: files, folders, lists, manifests."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_embed.errors import SourceError
from vmae_embed.records import Failure, Video
from vmae_embed.tables import TABLE_SUFFIXES, read_table

if TYPE_CHECKING:
    import pyarrow as pa

# Containers that FFmpeg reads and that people keep videos in.
# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
LIST_SUFFIXES = (".txt", ".lst", ".list")
# A manifest's columns that say which video a row is about; all others are carried.
_NAMING = ("path", "video_id")
_ZEROS = re.compile(r"\.0+(?!\d)")


@dataclass
class Listing:
    """What the sources hold.

    Attributes:
        videos: sorted by id.
        failures: what was named but cannot be read, by id.
        ignored: files in folders that are no videos by their suffix, counted by suffix.
        columns: carried columns and their types: ``bool``, ``int64``, ``double`` or ``string``.
    """

    videos: list[Video] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    columns: dict[str, str] = field(default_factory=dict)


def list_videos(sources: Sequence[str | Path], *, glob: str | None = None) -> Listing:
    """List the videos of all sources.

    A folder is searched recursively for known video suffixes, hidden files left out; its videos'
    ids are relative to it. A text list (``.txt``, ``.lst``, ``.list``, or ``-`` for standard
    input) names a video a line, a manifest (CSV, TSV, Parquet) a video a row in its column
    ``path``; relative paths are taken from the list's own folder and are the ids as written.
    A manifest's column ``video_id`` gives other ids; its other columns are carried along.

    Args:
        sources: files, folders, lists and manifests, in any mixture.
        glob: take the files of folders whose relative path or name matches this pattern,
            whatever their suffix.

    Raises:
        SourceError: a source is missing, holds no video, or two videos have one id.
    """
    listing = Listing()
    found: dict[str, Video | Failure] = {}
    for source in sources:
        before = listing.ignored.copy()
        named = False
        for entry in _expand(source, glob, listing):
            named = True
            record = _examine(*entry)
            known = found.setdefault(_id(record), record)
            if known != record:
                raise SourceError(_conflict(known, record))
        if not named:
            raise SourceError(_nothing(source, glob, listing.ignored - before))
    if not found:
        raise SourceError("no videos: give files, folders, a list or a manifest")
    for key in sorted(found):
        record = found[key]
        if isinstance(record, Video):
            listing.videos.append(record)
        else:
            listing.failures.append(record)
    if not listing.videos:
        first = listing.failures[0]
        raise SourceError(
            f"none of the {len(listing.failures)} files named can be read; "
            f"the first is {_shown(first.path)}: {first.reason}"
        )
    return listing


def check_source(source: str | Path) -> tuple[Path, int]:
    """Look whether a source other than ``-`` is there, and no more.

    Returns:
        Its path, and its mode as the file system has it.

    Raises:
        SourceError: it is not there.
    """
    text = str(source)
    if not text:
        raise SourceError("a source without a name: give a file, a folder, a list or a manifest; . is this folder")
    if "://" in text:
        raise SourceError(f"{_shown(text)}: URLs are not read; download the videos, or mount their storage")
    path = Path(os.path.expanduser(text))
    try:
        return path, os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError(f"{_shown(path)}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{_shown(path)}: cannot be read ({getattr(error, 'strerror', error)})") from error


_Entry = tuple[str, str, Mapping[str, Any]]


def _expand(source: str | Path, glob: str | None, listing: Listing) -> Iterator[_Entry]:
    """Yield (id, path, columns) of everything that a source names."""
    if str(source) == "-":
        # As bytes where it can: names need not be valid in any encoding.
        yield from _from_lines(getattr(sys.stdin, "buffer", sys.stdin), Path.cwd())
        return
    path, mode = check_source(source)
    suffix = path.suffix.lower()
    if stat.S_ISDIR(mode):
        yield from _from_folder(path, glob, listing)
    elif suffix in LIST_SUFFIXES:
        try:
            with path.open("rb") as lines:
                yield from _from_lines(lines, path.parent)
        except OSError as error:
            raise SourceError(f"{_shown(path)}: cannot be read ({error.strerror})") from error
    elif suffix in TABLE_SUFFIXES:
        yield from _from_manifest(path, listing)
    else:
        yield path.name, os.path.abspath(path), {}


def _from_folder(folder: Path, glob: str | None, listing: Listing) -> Iterator[_Entry]:
    unlisted: list[str] = []

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise SourceError(f"{_shown(folder)}: cannot be listed ({error.strerror})") from error
        unlisted.append(error.filename)

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if glob is not None:
                # `**/` also means no folder at all, as it does in shells.
                wanted = any(fnmatch.fnmatch(text, glob.removeprefix("**/")) for text in (relative, name))
            else:
                wanted = path.suffix.lower() in VIDEO_SUFFIXES
            if wanted:
                yield relative, os.path.abspath(path), {}
            else:
                listing.ignored[path.suffix.lower() or "no suffix"] += 1
    # A locked folder must not stop the run, nor be passed over: it is listed, and fails.
    for name in unlisted:
        yield Path(name).relative_to(folder).as_posix(), os.path.abspath(name), {}


def _from_lines(lines: Iterable[bytes | str], root: Path) -> Iterator[_Entry]:
    for line in lines:
        if name := os.fsdecode(line).removeprefix("\ufeff").rstrip("\r\n"):
            yield _as_written(name), _absolute(root, name), {}


def _from_manifest(manifest: Path, listing: Listing) -> Iterator[_Entry]:
    table = read_table(manifest, text=_NAMING)
    names = table.column_names
    if "path" not in names:
        raise SourceError(f"{_shown(manifest)}: no column 'path'; it has {', '.join(map(repr, names))}")
    for name in names:
        if names.count(name) > 1:
            raise SourceError(f"{_shown(manifest)}: two columns are named {name!r}; rename one")
    paths = [_text(value) for value in table["path"].to_pylist()]
    if "video_id" in names:
        ids = [_text(value) for value in table["video_id"].to_pylist()]
    else:
        ids = [_as_written(path) if path else path for path in paths]
    carried = {name: _carry(table[name], name, manifest) for name in names if name not in _NAMING}
    for name, (kind, _) in carried.items():
        if listing.columns.setdefault(name, kind) != kind:
            raise SourceError(
                f"{_shown(manifest)}: column {name!r} is {kind} here and {listing.columns[name]} in another manifest; "
                "make them alike, or rename one"
            )
    for row, (path, video_id) in enumerate(zip(paths, ids, strict=True)):
        if not path or not video_id:
            lacking = "video_id" if path else "path"
            raise SourceError(f"{_shown(manifest)}: row {row + 1} has no {lacking}; fill it in, or drop the row")
        columns = {name: values[row] for name, (_, values) in carried.items()}
        yield video_id, _absolute(manifest.parent, path), columns


def _carry(column: pa.ChunkedArray, name: str, manifest: Path) -> tuple[str, list[Any]]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        return "bool", column.to_pylist()
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "int64", column.to_pylist()
    if pa.types.is_floating(kind):
        return "double", column.to_pylist()
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        # By Arrow, as Python's own hold no nanoseconds; without the zeros that only tell the unit.
        moments = column.cast(pa.string()).to_pylist()
        return "string", [None if moment is None else _ZEROS.sub("", moment) for moment in moments]
    try:
        values = [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{_shown(manifest)}: column {name!r} is not UTF-8 text; save it as such, or drop it"
        ) from error
    return "string", [None if value is None else str(value) for value in values]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def _as_written(name: str) -> str:
    return Path(os.path.normpath(name)).as_posix()


def _absolute(root: Path, name: str) -> str:
    return os.path.abspath(root / os.path.expanduser(name))


def _examine(video_id: str, path: str, columns: Mapping[str, Any]) -> Video | Failure:
    def failed(reason: str, fingerprint: str = "") -> Failure:
        name, where = (text.encode("utf-8", "backslashreplace").decode() for text in (video_id, path))
        return Failure(name, where, "source", reason, 0.0, fingerprint)

    try:
        status = os.stat(path)
    except OSError as error:
        return failed(error.strerror or type(error).__name__)
    except ValueError as error:
        return failed(str(error))
    video = Video(video_id, path, status.st_size, status.st_mtime_ns, columns)
    if stat.S_ISDIR(status.st_mode):
        return failed("a folder, not a video, or one that cannot be listed", video.fingerprint)
    if not stat.S_ISREG(status.st_mode):
        return failed("not a regular file", video.fingerprint)
    try:
        (video_id + path).encode("utf-8")
    except UnicodeEncodeError:
        return failed("its name is not valid UTF-8; rename it", video.fingerprint)
    return video


def _id(record: Video | Failure) -> str:
    return record.id if isinstance(record, Video) else record.video_id


def _shown(name: str | Path) -> str:
    """A file's name as a message of one line can hold it: quoted, if not all of it can be printed."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _conflict(a: Video | Failure, b: Video | Failure) -> str:
    if a.path == b.path:
        return f"{_shown(a.path)} is listed twice, with different values in its manifest's columns; keep one"
    return (
        f"two videos have the id {_shown(_id(a))}: {_shown(a.path)} and {_shown(b.path)}; "
        "name a folder above both, or give a manifest with a column video_id"
    )


def _nothing(source: str | Path, glob: str | None, ignored: Counter[str]) -> str:
    if not ignored:
        return f"{_shown(source)}: it is empty; give a source that names videos"
    if glob is not None:
        return f"{_shown(source)}: nothing in it matches {glob!r}; quote the pattern, or give another"
    others = ", ".join(f"{count} {_shown(suffix)}" for suffix, count in ignored.most_common(4))
    return f"{_shown(source)}: no videos in it, only {others}; `--glob '*'` takes files of any suffix"
