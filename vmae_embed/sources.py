"""From what the user names to videos: files, folders, lists, manifests."""

from __future__ import annotations

import fnmatch
import os
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
        before = len(found)
        for entry in _expand(source, glob, listing):
            record = _examine(*entry)
            known = found.setdefault(_id(record), record)
            if known != record:
                raise SourceError(_conflict(known, record))
        if len(found) == before and not any(found):
            raise SourceError(_nothing(source, glob, listing))
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
            f"none of the {len(listing.failures)} files named can be read; the first is {first.path}: {first.reason}"
        )
    return listing


_Entry = tuple[str, str, Mapping[str, Any]]


def _expand(source: str | Path, glob: str | None, listing: Listing) -> Iterator[_Entry]:
    """Yield (id, path, columns) of everything that a source names."""
    text = str(source)
    if text == "-":
        yield from _from_lines(sys.stdin, Path.cwd())
        return
    if "://" in text:
        raise SourceError(f"{text}: URLs are not read; download the videos, or mount their storage")
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _from_folder(path, glob, listing)
    elif not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    elif suffix in LIST_SUFFIXES:
        try:
            with path.open(encoding="utf-8", errors="surrogateescape") as lines:
                yield from _from_lines(lines, path.parent)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    elif suffix in TABLE_SUFFIXES:
        yield from _from_manifest(path, listing)
    else:
        yield path.name, os.path.abspath(path), {}


def _from_folder(folder: Path, glob: str | None, listing: Listing) -> Iterator[_Entry]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
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
                wanted = fnmatch.fnmatch(relative, glob) or fnmatch.fnmatch(name, glob)
            else:
                wanted = path.suffix.lower() in VIDEO_SUFFIXES
            if wanted:
                yield relative, os.path.abspath(path), {}
            else:
                listing.ignored[path.suffix.lower() or "no suffix"] += 1


def _from_lines(lines: Iterable[str], root: Path) -> Iterator[_Entry]:
    for line in lines:
        if name := line.rstrip("\r\n"):
            yield _as_written(name), os.path.abspath(root / Path(name).expanduser()), {}


def _from_manifest(manifest: Path, listing: Listing) -> Iterator[_Entry]:
    table = read_table(manifest)
    if "path" not in table.column_names:
        raise SourceError(f"{manifest}: no column 'path'; it has {', '.join(table.column_names)}")
    paths = [None if value is None else str(value) for value in table["path"].to_pylist()]
    ids = table["video_id"].to_pylist() if "video_id" in table.column_names else paths
    carried = {name: _carry(table[name]) for name in table.column_names if name not in ("path", "video_id")}
    for name, (kind, _) in carried.items():
        if listing.columns.setdefault(name, kind) != kind:
            raise SourceError(
                f"{manifest}: column {name!r} is {kind} here and {listing.columns[name]} in another manifest"
            )
    for row, (path, video_id) in enumerate(zip(paths, ids, strict=True)):
        if not path or video_id in (None, ""):
            raise SourceError(f"{manifest}: row {row + 1} has no path or no video_id")
        columns = {name: values[row] for name, (_, values) in carried.items()}
        yield _as_written(str(video_id)), os.path.abspath(manifest.parent / Path(path).expanduser()), columns


def _carry(column: pa.ChunkedArray) -> tuple[str, list[Any]]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        return "bool", column.to_pylist()
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "int64", column.to_pylist()
    if pa.types.is_floating(kind):
        return "double", column.to_pylist()
    return "string", [None if value is None else str(value) for value in column.to_pylist()]


def _as_written(name: str) -> str:
    return Path(os.path.normpath(name)).as_posix()


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
    if not stat.S_ISREG(status.st_mode):
        return failed("not a regular file", video.fingerprint)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return failed("its name is not valid UTF-8; rename it", video.fingerprint)
    return video


def _id(record: Video | Failure) -> str:
    return record.id if isinstance(record, Video) else record.video_id


def _conflict(a: Video | Failure, b: Video | Failure) -> str:
    if a.path == b.path:
        return f"{a.path} is listed twice, with different values in its manifest's columns"
    return (
        f"two videos have the id {_id(a)}: {a.path} and {b.path}; "
        "name a folder above both, or give a manifest with a column video_id"
    )


def _nothing(source: str | Path, glob: str | None, listing: Listing) -> str:
    if glob is not None:
        return f"{source}: nothing in it matches {glob!r}"
    if listing.ignored:
        others = ", ".join(f"{count} {suffix}" for suffix, count in listing.ignored.most_common(4))
        return f"{source}: no videos in it, only {others}; `--glob '*'` takes files of any suffix"
    return f"{source}: it is empty"
