"""Splits that do not leak: into train and test, or into folds, with groups kept whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.labels import Label, label_order

# Random moves tried before a split is given up. With up to 8 groups, 2000 found every split that there was.
_WALK = 2000
_HELD_OUT_SHARE = 0.2


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
    _check_rows(labels, groups)
    if not 0 < test_fraction < 1 or seed < 0:
        raise ProbeError(f"test_fraction={test_fraction}, seed={seed}; give 0 < test_fraction < 1, seed >= 0")

    rng = np.random.default_rng(seed)
    class_names = sorted(set(labels), key=label_order)
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


def hold_out(
    codes: NDArray[np.intp], groups: Sequence[str] | None, *, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Keep a fifth of the groups aside, to choose a probe's settings by.

    Args:
        codes: ``(B,)`` class of each row.
        groups: one a row; None: each row by itself.
        seed: 0 or above.

    Returns:
        Ascending indices of the rows to fit to and of those held out: none of these where no split
        keeps every class on both sides, as of one clip a class.

    Raises:
        ProbeError: not a group a row.
    """
    labels = codes.tolist()
    names = [str(row) for row in range(len(labels))] if groups is None else groups
    _check_rows(labels, names)
    try:
        return split_by_group(labels, names, test_fraction=_HELD_OUT_SHARE, seed=seed)
    except ProbeError:
        return np.arange(len(labels)), np.empty(0, dtype=np.intp)


def folds_by_group(
    labels: Sequence[Label], groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> NDArray[np.intp]:
    """Deal rows out to folds so that no group is in two, with about the same share of each class in each.

    Groups are dealt in the order of how unequally they hold the classes, each to the fold where
    the classes' shares then differ least between folds, as scikit-learn's ``StratifiedGroupKFold``.
    A class of fewer groups than folds is missing in some.

    Args:
        labels: one a row.
        groups: one a row.
        folds: at least 2.
        seed: 0 or above.

    Returns:
        ``(B,)`` the fold of each row, from 0.

    Raises:
        ProbeError: a bad argument, or fewer groups than folds.
    """
    _check_rows(labels, groups)
    if not len(labels) or folds < 2 or seed < 0:
        raise ProbeError(f"{len(labels)} rows, folds={folds}, seed={seed}; give rows, 2 folds or more, seed >= 0")
    class_of_row = np.unique([str(label) for label in labels], return_inverse=True)[1]
    names, group_of_row = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise ProbeError(
            f"{folds} folds of {len(names)} groups; give {max(len(names), 2)} folds at most, or finer groups"
        )
    held = np.zeros((len(names), class_of_row.max() + 1))
    np.add.at(held, (group_of_row, class_of_row), 1)
    shares = held / held.sum(axis=0)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = np.zeros((folds, held.shape[1]))
    rows_dealt = np.zeros(folds)
    fold_of_group = np.empty(len(names), dtype=np.intp)
    for group in shuffled[np.argsort(-held[shuffled].std(axis=1), kind="stable")]:
        # How the classes' shares would differ between folds, were the group dealt to each of them.
        places = np.eye(folds)[:, :, None] * shares[group]
        unequal = (dealt + places).std(axis=1).mean(axis=1)
        best = np.lexsort([rows_dealt, np.round(unequal, 12)])[0]
        fold_of_group[group] = best
        dealt[best] += shares[group]
        rows_dealt[best] += held[group].sum()
    return fold_of_group[group_of_row]


def few_of_each(labels: Sequence[Label], groups: Sequence[str], count: int, *, seed: int = 0) -> NDArray[np.intp]:
    """Draw ``count`` rows of each class, of as many groups as there are.

    Args:
        labels: one a row.
        groups: one a row.
        count: at least 1; all rows of a class that has fewer.
        seed: 0 or above.

    Returns:
        Ascending indices.

    Raises:
        ProbeError: a bad argument.
    """
    _check_rows(labels, groups)
    if not len(labels) or count < 1 or seed < 0:
        raise ProbeError(f"{len(labels)} rows, few_shot={count}, seed={seed}; give rows, 1 or more a class, seed >= 0")
    rng = np.random.default_rng(seed)
    most = max(Counter(labels).values())
    if count > most:
        raise ProbeError(f"few_shot={count}: no class has more than {most} clips to fit to; give fewer")
    taken: dict[Label, list[int]] = {}
    rows_of: dict[tuple[Label, str], list[int]] = {}
    for row in rng.permutation(len(labels)).tolist():
        rows_of.setdefault((labels[row], groups[row]), []).append(row)
    # Round by round, a row of each group.
    for turn in range(max(map(len, rows_of.values()))):
        for (label, _), rows in rows_of.items():
            if turn < len(rows) and len(taken.setdefault(label, [])) < count:
                taken[label].append(rows[turn])
    return np.sort(np.array([row for rows in taken.values() for row in rows], dtype=np.intp))


def _check_rows(labels: Sequence[Label], groups: Sequence[str]) -> None:
    if len(labels) != len(groups):
        raise ProbeError(f"{len(labels)} labels but {len(groups)} groups; give one of each a row")
    if any(label is None for label in labels):
        raise ProbeError("a row without a label; split the labelled rows only")


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
