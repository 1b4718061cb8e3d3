"""Labels for the clips of a library: read and matched, nothing dropped in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa

Label: TypeAlias = str | int

_SIDES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
KEY_COLUMNS = ("clip_id", "video_id", "path")


@dataclass(frozen=True, slots=True)
class Matched:
    """The rows of a library with their labels, and all that found no partner.

    Attributes:
        labels: one a row; None where the table has no label.
        groups: one a row: what the table says, else the row's video id.
        sides: one a row: ``train``, ``val`` or ``test``, or None; None for all where the table has no such column.
        unmatched_keys: keys of the table that fit no row, in the table's order.
        unlabelled_videos: ids of videos without one labelled row, in the rows' order.
    """

    labels: tuple[Label | None, ...]
    groups: tuple[str, ...]
    unmatched_keys: tuple[str, ...]
    unlabelled_videos: tuple[str, ...]
    sides: tuple[str | None, ...] | None = None

    @property
    def labelled_rows(self) -> NDArray[np.intp]:
        """Ascending indices of the rows that have a label."""
        return np.flatnonzero([label is not None for label in self.labels])


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of labels.

    Attributes:
        key: what the table names: ``clip_id``, ``video_id`` or ``path``.
        labels: key to label. Paths are in POSIX form, without a leading ``./``.
        groups: key to group; None if no group column was asked for.
        sides: key to ``train``, ``val`` or ``test``; None if the table has no column ``split``.
    """

    key: str
    labels: Mapping[str, Label]
    groups: Mapping[str, str] | None = None
    sides: Mapping[str, str] | None = None

    def match(self, clip_ids: Sequence[str], video_ids: Sequence[str], paths: Sequence[str]) -> Matched:
        """Look up every row of a library, given as three parallel columns.

        A ``path`` key fits the rows that have it as video id or as absolute path.

        Raises:
            UsageError: the columns differ in length, or a row has one label by its video id
                and another by its absolute path.
        """
        lengths = len(clip_ids), len(video_ids), len(paths)
        if len(set(lengths)) != 1:
            raise UsageError(f"columns of {lengths} clip ids, video ids and paths; give as many of each")
        labels: list[Label | None] = []
        groups = []
        sides = []
        found = set()
        for clip_id, video_id, path in zip(clip_ids, video_ids, paths, strict=True):
            if self.key == "path":
                names = [_posix(video_id), _posix(path)]
            else:
                names = [clip_id if self.key == "clip_id" else video_id]
            keys = [name for name in names if name in self.labels]
            found.update(keys)
            entries = {self._entry(key) for key in keys}
            if len(entries) > 1:
                raise UsageError(f"labels {keys[0]!r} and {keys[1]!r} differ but name one video; keep one row")
            label, group, side = entries.pop() if entries else (None, None, None)
            labels.append(label)
            groups.append(video_id if group is None else group)
            sides.append(side)
        return Matched(
            labels=tuple(labels),
            groups=tuple(groups),
            unmatched_keys=tuple(key for key in self.labels if key not in found),
            unlabelled_videos=unlabelled(video_ids, labels),
            sides=None if self.sides is None else tuple(sides),
        )

    def _entry(self, key: str) -> tuple[Label, str | None, str | None]:
        group, side = (None if column is None else column[key] for column in (self.groups, self.sides))
        return self.labels[key], group, side


def unlabelled(video_ids: Sequence[str], labels: Sequence[Label | None]) -> tuple[str, ...]:
    """Return the ids of videos without one labelled row, in the rows' order."""
    labelled = {video_id for video_id, label in zip(video_ids, labels, strict=True) if label is not None}
    return tuple(video_id for video_id in dict.fromkeys(video_ids) if video_id not in labelled)


def read_labels(path: Path, *, label: str = "label", group: str | None = None) -> Labels:
    """Read labels from a CSV, TSV or Parquet file.

    The rows are known by the first of the columns ``clip_id``, ``video_id`` and ``path`` that
    the file has. Rows that repeat one another are fine. A column ``split``, if there is one, says
    ``train``, ``val`` or ``test``.

    Args:
        path: the file.
        label: column of the labels: text, which is all that a CSV holds, or whole numbers.
        group: column of the groups that a split must keep whole; read as text.

    Raises:
        UsageError: the file cannot be read or is empty, a column is missing or of the wrong
            type, a value is missing, or two rows disagree on one clip or video.
    """
    # As written: a CSV's 01 and 1 are two labels, and a date is one.
    table = read_table(path, text=[*KEY_COLUMNS, label, *([group] if group else [])])
    key = next((name for name in KEY_COLUMNS if name in table.column_names), None)
    if key is None:
        raise UsageError(f"{path}: needs one of the columns {', '.join(KEY_COLUMNS)}; has {_columns(table)}")
    keys = _values(path, table, key, (str,))
    if key == "path":
        keys = [_posix(value) for value in keys]
    labels = _unique(path, keys, _values(path, table, label, (str, int)), "label")
    groups, sides = None, None
    if group is not None:
        groups = _unique(path, keys, [str(value) for value in _values(path, table, group, (str, int))], "group")
    if "split" in table.column_names and label != "split" != group:
        sides = _unique(
            path, keys, [parse_side(str(path), value) for value in _values(path, table, "split", (str,))], "split"
        )
    return Labels(key, labels, groups, sides)


def carried_labels(clips: pa.Table, carried: Collection[str], column: str) -> list[Label | None]:
    """Labels from a column that a library carries, one a row of its clips; None where it is empty.

    Args:
        clips: rows of the library, with that column.
        carried: names of the columns that it carries.
        column: of the labels.

    Raises:
        UsageError: it carries no such column, or one of fractions.
    """
    check_carried(carried, column)
    values = [None if value == "" else value for value in clips[column].to_pylist()]
    if any(isinstance(value, float) for value in values):
        raise UsageError(f"column {column!r}: holds fractions; labels are text or whole numbers")
    return values


def check_carried(carried: Collection[str], column: str) -> None:
    """Refuse a column that a library does not carry.

    Raises:
        UsageError: naming those that it carries.
    """
    if column not in carried:
        has = f"carries {', '.join(carried)}" if carried else "carries no columns of a manifest"
        raise UsageError(f"column {column!r}: the library {has}; name one of its columns, or give --labels FILE")


def parse_side(where: str, value: object) -> str:
    """Read ``train``, ``val`` or ``test``, as people write them.

    Args:
        where: to be said.
        value: of a column ``split``.

    Raises:
        UsageError: it is none of these.
    """
    side = _SIDES.get(str(value).strip().lower())
    if side is None:
        raise UsageError(f"{where}: split {value!r}; give train, val or test, or name the column otherwise")
    return side


def label_order(label: Label) -> tuple[bool, Label]:
    """Sort integers by value, before text."""
    return isinstance(label, str), label


def _posix(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _columns(table: pa.Table) -> str:
    return ", ".join(table.column_names)


def _values(path: Path, table: pa.Table, column: str, kinds: tuple[type, ...]) -> list[Any]:
    """Read a column that has to be there, once, with a value of these kinds in every row."""
    if table.column_names.count(column) != 1:
        raise UsageError(f"{path}: needs one column {column!r}; has {_columns(table)}")
    if not table.num_rows:
        raise UsageError(f"{path}: has no rows; give one a clip or video")
    values: list[Any] = table.column(column).to_pylist()
    for row, value in enumerate(values, start=1):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UsageError(f"{path}: row {row} has no {column}; fill it in, or drop the row")
        if not isinstance(value, kinds):
            accepted = " or whole numbers" if int in kinds else ""
            raise UsageError(f"{path}: column {column!r} holds {table.schema.field(column).type}; give text{accepted}")
    return values


def _unique(path: Path, keys: list[str], values: list[Any], what: str) -> dict[str, Any]:
    """Pair keys with values; a key may come again only with the same value."""
    pairs: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if pairs.setdefault(key, value) != value:
            raise UsageError(f"{path}: {key!r} has the {what}s {pairs[key]!r} and {value!r}; keep one row")
    return pairs
