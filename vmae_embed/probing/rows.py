"""The labelled rows of a library: what probes are fitted to and judged on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.labels import Label, Matched, carried_labels, check_carried, parse_side, read_labels, unlabelled
from vmae_embed.library import Library, Tokens
from vmae_embed.views import Views, as_views

FOLDERS = "folders"
_DESCRIBED = ("clip_id", "video_id", "path", "start_s", "end_s", "fingerprint")


@dataclass(frozen=True, slots=True)
class Rows:
    """Clips with their labels.

    Attributes:
        embeddings: ``(B, D)`` float32.
        truth: B labels, all text or all whole numbers.
        groups: B names that no split may part.
        sides: ``train``, ``val`` or ``test`` for each row; None where nobody said.
        clips: B rows of ``clip_id``, ``video_id``, ``path``, ``start_s``, ``end_s`` and ``fingerprint``; of several
            views, also ``view``, from 0.
        tokens: ``(B, N, D)`` float16, which stay on disk; None until `vmae_embed.probing.with_tokens` gives them.
    """

    embeddings: NDArray[np.float32]
    truth: list[Label]
    groups: list[str]
    sides: list[str] | None
    clips: pa.Table
    tokens: Tokens | None = None

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Return some of them."""
        return Rows(
            self.embeddings[rows],
            [self.truth[row] for row in rows],
            [self.groups[row] for row in rows],
            None if self.sides is None else [self.sides[row] for row in rows],
            self.clips.take(pa.array(rows)),
            None if self.tokens is None else self.tokens[rows],
        )

    def of_side(self, *, test: bool) -> Rows:
        """Return those that a given split calls ``test``, or the others; all of them where none is given.

        Raises:
            ProbeError: there are none.
        """
        if self.sides is None:
            return self
        rows = np.flatnonzero([(side == "test") is test for side in self.sides])
        if not len(rows):
            raise ProbeError(f"the column split has {'no' if test else 'only'} test rows among the labelled clips")
        return self.take(rows)

    @property
    def videos(self) -> NDArray[np.int64]:
        """``(B,)`` a number for each row's video."""
        return np.unique(self.clips["video_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]


@dataclass(frozen=True, slots=True)
class Unmatched:
    """What found no partner.

    Attributes:
        keys: of the table of labels, that fit no clip.
        videos: of the library, without a label.
        partial: videos that not every view holds.
    """

    keys: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()


def labelled_views(
    views: Views, source: str | None, *, label: str = "label", group: str | None = None
) -> tuple[Rows, Unmatched]:
    """Read the clips of all views and their labels: what `labelled_rows` reads of each.

    Videos that not every view holds are left out. Where no group is named and the preset knows what
    was cut from one recording by files' names, recordings are the groups.
    """
    found = [labelled_rows(library, source, label=label, group=group) for library in views.libraries]
    rows, partial = _join(views, [rows for rows, _ in found])
    if group is None and views.preset is not None and views.preset.recording is not None:
        paths = rows.clips["path"].to_pylist()
        rows = replace(rows, groups=[_recording(views.preset.recording, path) for path in paths])
    return rows, replace(found[0][1], partial=partial)


def all_rows(library: Library | Views) -> Rows:
    """Read all clips, with empty labels, but for those of videos that not every view holds."""
    views, parts = as_views(library), []
    for library in views.libraries:
        clips = library.table(list(_DESCRIBED))
        names = clips["video_id"].to_pylist()
        parts.append(Rows(library.embeddings(), [""] * len(names), names, None, clips))
    return _join(views, parts)[0]


def _join(views: Views, parts: Sequence[Rows]) -> tuple[Rows, tuple[str, ...]]:
    """Rows of several views one after the other, and the videos that not all of them hold: these are left out."""
    if len(parts) == 1:
        return parts[0], ()
    everywhere = views.whole_videos()
    anywhere = {video for rows in parts for video in rows.clips["video_id"].to_pylist()}
    kept = []
    for number, rows in enumerate(parts):
        videos = rows.clips["video_id"].to_pylist()
        rows = rows.take(np.flatnonzero([video in everywhere for video in videos]))
        view = pa.array(np.full(len(rows.truth), number))
        kept.append(replace(rows, clips=rows.clips.append_column("view", view)))
    joined = Rows(
        np.concatenate([rows.embeddings for rows in kept]),
        [value for rows in kept for value in rows.truth],
        [value for rows in kept for value in rows.groups],
        [value for rows in kept for value in rows.sides or ()] or None,
        pa.concat_tables(rows.clips for rows in kept),
    )
    if not len(joined.truth):
        raise ProbeError(f"{views.path}: no video is in every view; run extract again")
    return joined, tuple(sorted(anywhere - everywhere))


def _recording(pattern: str, path: str) -> str:
    """What a file was cut from, by its name; the file itself where the name does not say."""
    named = re.fullmatch(pattern, PurePosixPath(path).stem)
    return named.group(1) if named else path


def labelled_rows(
    library: Library, source: str | None, *, label: str = "label", group: str | None = None
) -> tuple[Rows, Unmatched]:
    """Read a library's clips and their labels.

    Args:
        library: whose clips.
        source: a file of labels (see `vmae_embed.labels.read_labels`); ``folders`` for the name of
            the folder that each video is in; None for a column that the library carries.
        label: column of the labels.
        group: column whose values no split may part; None for the video.

    Raises:
        UsageError: there is no such file or column, or it contradicts itself.
        ProbeError: no clip has a label, or clips of one video are in two groups or on two sides.
    """
    table = library.table([*_DESCRIBED, *library.config.columns])
    if source in (FOLDERS, None):
        if group is not None:
            check_carried(library.config.columns, group)
        if source == FOLDERS:
            labels: list[Label | None] = [PurePosixPath(path).parent.name or None for path in table["path"].to_pylist()]
        else:
            labels = carried_labels(table, library.config.columns, label)
        matched = _matched(table, labels, table[group].to_pylist() if group else None)
        if source is None and "split" in library.config.columns and label != "split" != group:
            where = f"{library.path}: column 'split'"
            matched = replace(matched, sides=tuple(parse_side(where, value) for value in table["split"].to_pylist()))
    else:
        matched = read_labels(Path(source), label=label, group=group).match(
            *(table[name].to_pylist() for name in ("clip_id", "video_id", "path"))
        )
    rows = matched.labelled_rows
    if not len(rows):
        where = source if source not in (None, FOLDERS) else f"column {label!r}" if source is None else "folders"
        keys, ids = matched.unmatched_keys, table["video_id"].to_pylist()
        example = f": {keys[0]!r} against {ids[0]!r}" if keys and ids else ""
        raise ProbeError(
            f"{where}: no label fits a clip of {library.path}{example}; compare with `vmae-embed info {library.path}`"
        )
    sides = matched.sides and [matched.sides[row] for row in rows]
    chosen = Rows(
        embeddings=library.embeddings()[rows],
        truth=[value for value in matched.labels if value is not None],
        groups=[matched.groups[row] for row in rows],
        sides=[side or "train" for side in sides] if sides else None,
        clips=table.select(_DESCRIBED).take(pa.array(rows)),
    )
    _check_videos(chosen)
    return chosen, Unmatched(matched.unmatched_keys, matched.unlabelled_videos)


def _matched(table: pa.Table, labels: Sequence[Label | None], groups: Sequence[Any] | None) -> Matched:
    videos = table["video_id"].to_pylist()
    return Matched(
        labels=tuple(labels),
        groups=tuple(
            video if group is None or group == "" else str(group)
            for video, group in zip(videos, groups or [None] * len(videos), strict=True)
        ),
        unmatched_keys=(),
        unlabelled_videos=unlabelled(videos, labels),
    )


def _check_videos(rows: Rows) -> None:
    """Clips of one video are alike: parted, they would tell a probe the answers."""
    for values, what in ((rows.groups, "groups"), (rows.sides, "sides of the split")):
        first: dict[str, str] = {}
        for video, value in zip(rows.clips["video_id"].to_pylist(), values or [], strict=False):
            if first.setdefault(video, value) != value:
                raise ProbeError(
                    f"clips of {video} are in two {what}, {first[video]!r} and {value!r}; keep a video's clips together"
                )
