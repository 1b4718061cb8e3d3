"""Labels for the clips of a library: read, match, split without leaks, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError, UsageError
from vmae_embed.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa

Label: TypeAlias = str | int

KEY_COLUMNS = ("clip_id", "video_id", "path")
# Random moves tried before a split is given up. With up to 8 groups, 2000 found every split that there was.
_WALK = 2000


@dataclass(frozen=True, slots=True)
class Matched:
    """The rows of a library with their labels, and all that found no partner.

    Attributes:
        labels: one a row; None where the table has no label.
        groups: one a row: what the table says, else the row's video id.
        unmatched_keys: keys of the table that fit no row, in the table's order.
        unlabelled_videos: ids of videos without one labelled row, in the rows' order.
    """

    labels: tuple[Label | None, ...]
    groups: tuple[str, ...]
    unmatched_keys: tuple[str, ...]
    unlabelled_videos: tuple[str, ...]

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
    """

    key: str
    labels: Mapping[str, Label]
    groups: Mapping[str, str] | None = None

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
            label, group = entries.pop() if entries else (None, None)
            labels.append(label)
            groups.append(video_id if group is None else group)
        labelled = {video_id for video_id, label in zip(video_ids, labels, strict=True) if label is not None}
        return Matched(
            labels=tuple(labels),
            groups=tuple(groups),
            unmatched_keys=tuple(key for key in self.labels if key not in found),
            unlabelled_videos=tuple(id_ for id_ in dict.fromkeys(video_ids) if id_ not in labelled),
        )

    def _entry(self, key: str) -> tuple[Label, str | None]:
        return self.labels[key], None if self.groups is None else self.groups[key]


def read_labels(path: Path, *, label: str = "label", group: str | None = None) -> Labels:
    """Read labels from a CSV, TSV or Parquet file.

    The rows are known by the first of the columns ``clip_id``, ``video_id`` and ``path`` that
    the file has. Rows that repeat one another are fine.

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
        raise UsageError(f"{path}: needs a column {', '.join(KEY_COLUMNS)}; has {_columns(table)}")
    keys = _values(path, table, key, (str,))
    if key == "path":
        keys = [_posix(value) for value in keys]
    labels = _unique(path, keys, _values(path, table, label, (str, int)), "label")
    if group is None:
        return Labels(key, labels)
    groups = [str(value) for value in _values(path, table, group, (str, int))]
    return Labels(key, labels, _unique(path, keys, groups, "group"))


def split_by_group(
    labels: Sequence[Label], groups: Sequence[str], *, test_fraction: float = 0.25, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split rows into train and test so that no group is on both sides.

    Every class of two groups or more is on both sides, with about ``test_fraction`` of its rows
    in test: whole groups are seldom exact. A class of one group is in train, unless its group
    has to leave for another class's sake. Which groups go where depends on the seed and on
    what the groups hold, not on the order of the rows.

    Args:
        labels: one a row.
        groups: one a row.
        test_fraction: of each class's rows, above 0 and below 1.
        seed: 0 or above.

    Returns:
        Ascending indices of the train rows and of the test rows.

    Raises:
        ProbeError: a bad argument, or no such split exists.
    """
    if len(labels) != len(groups):
        raise ProbeError(f"{len(labels)} labels but {len(groups)} groups; give one of each a row")
    if any(label is None for label in labels):
        raise ProbeError("a row without a label; split the labelled rows only")
    if not 0 < test_fraction < 1 or seed < 0:
        raise ProbeError(f"test_fraction={test_fraction}, seed={seed}; give 0 < test_fraction < 1, seed >= 0")

    rng = np.random.default_rng(seed)
    class_names = sorted(set(labels), key=_order)
    class_codes = {name: code for code, name in enumerate(class_names)}
    group_names = sorted(set(groups))
    # Ascending codes are a random order of the groups, and the pairs below come out in it.
    group_codes = dict(zip(group_names, rng.permutation(len(group_names)).tolist(), strict=True))
    group_of_row = np.array([group_codes[group] for group in groups], dtype=np.intp)
    class_of_row = np.array([class_codes[label] for label in labels], dtype=np.intp)
    pairs, sizes = np.unique(np.stack([group_of_row, class_of_row]), axis=1, return_counts=True)
    in_test = _choose_groups(pairs[0], pairs[1], sizes, test_fraction, rng)
    missed = _one_sided(pairs[0], pairs[1], in_test)
    if not in_test.any() or len(missed):
        why = f"class {class_names[missed[0]]!r} stays on one side" if len(missed) else "no class has two groups"
        raise ProbeError(f"no split found that keeps groups whole: {why}; label more videos, or finer groups")
    return np.flatnonzero(~in_test[group_of_row]), np.flatnonzero(in_test[group_of_row])


def majority_baseline(train_labels: Sequence[Label], test_labels: Sequence[Label]) -> float:
    """Give the accuracy of always answering the commonest train label.

    Of labels that are equally common, the first in sorted order is taken.

    Raises:
        ProbeError: no train labels or no test labels.
    """
    if not len(train_labels) or not len(test_labels):
        raise ProbeError(f"{len(train_labels)} train and {len(test_labels)} test labels; give one or more")
    counts = Counter(train_labels)
    commonest = min(counts, key=lambda label: (-counts[label], _order(label)))
    return Counter(test_labels)[commonest] / len(test_labels)


def per_class_accuracy(
    truth: Sequence[Label], predicted: Sequence[Label] | NDArray[Any]
) -> dict[Label, tuple[int, int]]:
    """Give, for each true label in sorted order, how many rows were right and how many there are.

    Raises:
        ProbeError: the two differ in length.
    """
    if len(truth) != len(predicted):
        raise ProbeError(f"{len(truth)} true labels but {len(predicted)} predicted; give one of each a row")
    total = Counter(truth)
    correct = Counter(true for true, guess in zip(truth, predicted, strict=True) if true == guess)
    return {label: (correct[label], total[label]) for label in sorted(total, key=_order)}


def _choose_groups(
    group: NDArray[np.intp],
    klass: NDArray[np.intp],
    size: NDArray[np.intp],
    fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Say of each group whether it is in test.

    The first three are parallel: each group and class that meet, in a random order of the
    groups, and the rows in which they do.
    """
    spread, rows = np.bincount(klass), np.bincount(klass, weights=size)
    n_groups = len(np.unique(group))
    in_test = np.zeros(n_groups, dtype=np.bool_)
    lone = np.isin(np.arange(n_groups), group[spread[klass] == 1])
    excess = -fraction * rows
    bounds = np.searchsorted(group, np.arange(n_groups + 1))
    for code in np.flatnonzero(~lone):
        mine = slice(bounds[code], bounds[code + 1])
        after = excess[klass[mine]] + size[mine]
        # Taken if it brings its classes' shares in test nearer, in squares, to the fraction.
        if np.sum((after**2 - excess[klass[mine]] ** 2) / rows[klass[mine]] ** 2) <= 0:
            in_test[code] = True
            excess[klass[mine]] = after

    # A class left on one side gets its smallest group moved. Where groups hold several classes that
    # may strand another class, and to settle it is set splitting, which is NP-complete: then walk at random.
    for step in range(len(spread) + _WALK):
        missed = _one_sided(group, klass, in_test)
        if not len(missed):
            break
        movable = np.flatnonzero(klass == rng.choice(missed))
        if step < len(spread) + _WALK // 2 and not lone[group[movable]].all():
            movable = movable[~lone[group[movable]]]
        pair = movable[size[movable].argmin()] if step < len(spread) else rng.choice(movable)
        in_test[group[pair]] ^= True
    return in_test


def _one_sided(group: NDArray[np.intp], klass: NDArray[np.intp], in_test: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give the classes of two groups or more that are all in train or all in test."""
    spread, held = np.bincount(klass), np.bincount(klass, weights=in_test[group])
    return np.flatnonzero((spread > 1) & ((held == 0) | (held == spread)))


def _order(label: Label) -> tuple[bool, Label]:
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
