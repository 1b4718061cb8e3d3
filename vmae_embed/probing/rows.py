"""The labelled rows of a library: what probes are fitted to and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError, UsageError
from vmae_embed.labels import Label, Matched, read_labels
from vmae_embed.library import Library, Tokens

FOLDERS = "folders"


@dataclass(frozen=True, slots=True)
class Rows:
    """Clips with their labels.

    Attributes:
        embeddings: ``(B, D)`` float32.
        truth: B labels, all text or all whole numbers.
        groups: B names that no split may part.
        sides: ``train``, ``val`` or ``test`` for each row; None where nobody said.
        clips: B rows of ``clip_id``, ``video_id``, ``path``, ``start_s``, ``end_s`` and ``fingerprint``.
        tokens: ``(B, N, D)`` float16, which stay on disk; None until `vmae_embed.probing.with_stored_tokens` or
            `with_tokens` gives them.
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
    """

    keys: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()


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
    described = ["clip_id", "video_id", "path", "start_s", "end_s", "fingerprint"]
    table = library.table([*described, *library.config.columns])
    if source == FOLDERS:
        matched = _of_folders(table, group)
    elif source is None:
        matched = _carried(library, table, label, group)
    else:
        matched = read_labels(Path(source), label=label, group=group).match(
            *(table[name].to_pylist() for name in ("clip_id", "video_id", "path"))
        )
    rows = matched.labelled_rows
    if not len(rows):
        where = source if source not in (None, FOLDERS) else f"column {label!r}" if source is None else "folders"
        raise ProbeError(
            f"{where}: no label fits a clip of {library.path}; compare with `vmae-embed info {library.path}`"
        )
    sides = matched.sides and [matched.sides[row] for row in rows]
    chosen = Rows(
        embeddings=library.embeddings()[rows],
        truth=[value for value in matched.labels if value is not None],
        groups=[matched.groups[row] for row in rows],
        sides=[side or "train" for side in sides] if sides else None,
        clips=table.select(described).take(pa.array(rows)),
    )
    _check_videos(chosen)
    return chosen, Unmatched(matched.unmatched_keys, matched.unlabelled_videos)


def _of_folders(table: pa.Table, group: str | None) -> Matched:
    labels = [PurePosixPath(path).parent.name or None for path in table["path"].to_pylist()]
    return _matched(table, labels, _column(table, group) if group else None)


def _carried(library: Library, table: pa.Table, label: str, group: str | None) -> Matched:
    carried = list(library.config.columns)
    for name in (label, group):
        if name is not None and name not in carried:
            has = f"carries {', '.join(carried)}" if carried else "carries no columns of a manifest"
            raise UsageError(
                f"column {name!r}: the library {has}; name one of its columns, or give --labels FILE or folders"
            )
    labels = [None if value == "" else value for value in table[label].to_pylist()]
    if any(isinstance(value, float) for value in labels):
        raise UsageError(f"column {label!r}: holds fractions; labels are text or whole numbers")
    return _matched(table, labels, _column(table, group) if group else None)


def _column(table: pa.Table, name: str) -> list[Any]:
    if name not in table.column_names:
        raise UsageError(f"column {name!r}: the library carries none of that name")
    values: list[Any] = table[name].to_pylist()
    return values


def _matched(table: pa.Table, labels: Sequence[Label | None], groups: Sequence[Any] | None) -> Matched:
    videos = table["video_id"].to_pylist()
    labelled = {video for video, label in zip(videos, labels, strict=True) if label is not None}
    return Matched(
        labels=tuple(labels),
        groups=tuple(
            video if group is None or group == "" else str(group)
            for video, group in zip(videos, groups or [None] * len(videos), strict=True)
        ),
        unmatched_keys=(),
        unlabelled_videos=tuple(video for video in dict.fromkeys(videos) if video not in labelled),
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
