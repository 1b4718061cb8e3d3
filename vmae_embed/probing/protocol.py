"""Fit probes on one side of a split, ask them about the other: every row is judged by a probe that never saw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.labels import Label, label_order
from vmae_embed.probing.rows import Rows
from vmae_embed.splits import few_of_each, folds_by_group


class Probe(Protocol):
    """What a probe must be able to do; ``reads`` says of which of `Rows`' features."""

    classes_: NDArray[Any]
    reads: str

    def fit(self, X: ArrayLike, y: Sequence[Label], groups: Sequence[str] | None = None) -> Any:  # noqa: N803
        """Fit to ``(B, D)`` embeddings and B labels."""
        ...

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """``(B, K)`` in the order of ``classes_``."""
        ...


@dataclass(frozen=True, slots=True)
class Split:
    """One fit and what it is asked about: ascending indices of rows."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Answers:
    """What probes said about rows that they were not fitted to.

    Attributes:
        tested: ``(n,)`` rows, of one repeat after the other.
        probabilities: ``(n, K)`` float64, in the order of ``classes``; a class that the row's probe
            was not fitted to has none.
        classes: K labels, sorted.
        repeats: ``(n,)`` from 0; all 0 but for few shots.
        majority: ``(n,)`` places in ``classes`` of the commonest label of the row's training side.
        fitted: the probes, a split each.
        train_clips: fitted to, on average.
    """

    tested: NDArray[np.intp]
    probabilities: NDArray[np.float64]
    classes: list[Label]
    repeats: NDArray[np.intp]
    majority: NDArray[np.intp]
    fitted: list[Any]
    train_clips: float


def splits_of(rows: Rows, *, folds: int = 5, seed: int = 0, dealt: Mapping[str, int] | None = None) -> list[Split]:
    """Splits that keep groups whole: the given one, or ``folds`` stratified ones.

    Where a split is given, ``val`` rows are fitted to as well: probes that choose among settings
    hold out some of what they are fitted to.

    Args:
        rows: to split.
        folds: where no split is given.
        seed: of the folds.
        dealt: the fold of each video, where other clips of the same videos were dealt before.

    Raises:
        ProbeError: one of two sides is empty, there are too few groups, or videos were dealt otherwise.
    """
    if rows.sides is not None:
        test = np.array([side == "test" for side in rows.sides])
        if test.all() or not test.any():
            raise ProbeError(
                f"the column split has {'only test' if test.all() else 'no test'} rows; it needs both sides"
            )
        trained, tested = ({rows.groups[row] for row in np.flatnonzero(side)} for side in (~test, test))
        if both := sorted(trained & tested):
            raise ProbeError(
                f"group {both[0]!r}{f' and {len(both) - 1:,} more' if len(both) > 1 else ''} is on both sides of the "
                "given split; keep its clips together"
            )
        return [Split(np.flatnonzero(~test), np.flatnonzero(test))]
    fold = folds_by_group(rows.truth, rows.groups, folds=folds, seed=seed) if dealt is None else _as_dealt(rows, dealt)
    return [Split(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(folds)]


def _as_dealt(rows: Rows, dealt: Mapping[str, int]) -> NDArray[np.intp]:
    videos = rows.clips["video_id"].to_pylist()
    if strange := sorted(set(videos) ^ dealt.keys()):
        raise ProbeError(f"the two libraries do not hold the same labelled videos: {strange[0]} is in one of them only")
    fold_of: dict[str, int] = {}
    for video, group in zip(videos, rows.groups, strict=True):
        if fold_of.setdefault(group, dealt[video]) != dealt[video]:
            raise ProbeError(f"group {group!r} is in two folds of the first library; name the same groups for both")
    return np.array([dealt[video] for video in videos], dtype=np.intp)


def few_shot(rows: Rows, splits: Sequence[Split], count: int, *, repeats: int = 5, seed: int = 0) -> list[list[Split]]:
    """The same splits, fitted to ``count`` clips a class, drawn anew ``repeats`` times."""
    drawn = []
    for repeat in range(repeats):
        made = []
        for split in splits:
            truth, groups = ([values[row] for row in split.train] for values in (rows.truth, rows.groups))
            made.append(Split(split.train[few_of_each(truth, groups, count, seed=seed + repeat)], split.test))
        drawn.append(made)
    return drawn


def fit_probe(probe: Probe, rows: Rows) -> int:
    """Fit a probe to all rows but those called ``test``; returns to how many.

    Raises:
        ProbeError: the probe cannot be fitted to them.
    """
    rows = rows.of_side(test=False)
    probe.fit(getattr(rows, probe.reads), rows.truth, rows.groups)
    return len(rows.truth)


def ask(
    rows: Rows,
    repeats: Sequence[Sequence[Split]],
    make: Callable[[], Probe],
    *,
    observe: Callable[[str, int, int], None] | None = None,
) -> Answers:
    """Fit a probe for every split, and ask it about the other side.

    Args:
        rows: labelled clips.
        repeats: each a list of splits.
        make: a new probe.
        observe: called before each fit with a name, how many are done, and of how many.

    Raises:
        ProbeError: a side holds one class only, or a probe cannot be fitted.
    """
    classes = sorted(set(rows.truth), key=label_order)
    place = {label: code for code, label in enumerate(classes)}
    tested, found, which, majority, fitted = [], [], [], [], []
    plan = [(repeat, split) for repeat, splits in enumerate(repeats) for split in splits]
    for number, (repeat, split) in enumerate(plan):
        if observe is not None:
            observe("fitting probes", number, len(plan))
        truth = [rows.truth[row] for row in split.train]
        probe = make()
        features = getattr(rows, probe.reads)  # tokens stay on disk: of them, what is indexed is not yet read
        probe.fit(features[split.train], truth, [rows.groups[row] for row in split.train])
        probabilities = np.zeros((len(split.test), len(classes)))
        known = [place[label] for label in probe.classes_.tolist()]
        probabilities[:, known] = probe.predict_proba(features[split.test])
        counts = np.bincount([place[label] for label in truth], minlength=len(classes))
        tested.append(split.test)
        found.append(probabilities)
        which.append(np.full(len(split.test), repeat))
        majority.append(np.full(len(split.test), counts.argmax()))
        fitted.append(probe)
    return Answers(
        np.concatenate(tested),
        np.concatenate(found),
        classes,
        np.concatenate(which),
        np.concatenate(majority),
        fitted,
        float(np.mean([len(split.train) for _, split in plan])),
    )
