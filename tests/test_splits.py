from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmae_embed.errors import ProbeError
from vmae_embed.labels import Label
from vmae_embed.splits import few_of_each, folds_by_group, split_by_group

# Into two sides

Rows = list[tuple[Label, str]]
# One class a group: videos and their labels. Always possible with a class of two groups.
pure_rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 5)).map(lambda row: (row[0], f"{row[0]}{row[1]}")),
    min_size=1,
    max_size=40,
)
# Any class in any group: people and what they do.
mixed_row = st.tuples(st.integers(0, 4), st.integers(0, 6).map(str))
mixed_rows = st.lists(mixed_row, min_size=1, max_size=25)
# Classes 4 and 5 have one group each, "x" and "y", of which one has to leave train.
lone_must_move: Rows = [(1, "x"), (1, "g"), (2, "y"), (2, "h"), (3, "g"), (3, "h"), (4, "x"), (5, "y")]
fractions = st.sampled_from([0.05, 0.25, 0.5, 0.9])


def groups_of(rows: Rows) -> dict[Label, set[str]]:
    return {label: {group for other, group in rows if other == label} for label, _ in rows}


def split(rows: Rows, **options: float) -> tuple[list[int], list[int]] | None:
    labels, groups = zip(*rows, strict=True)
    try:
        train, test = split_by_group(labels, groups, **options)  # type: ignore[arg-type]
    except ProbeError:
        return None
    return train.tolist(), test.tolist()


def possible(rows: Rows) -> bool:
    """Try every subset of the groups as the test side."""
    needed = [groups for groups in groups_of(rows).values() if len(groups) > 1]
    names = sorted({group for _, group in rows})
    subsets = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names)))
    return bool(needed) and any(all(groups & set(t) and groups - set(t) for groups in needed) for t in subsets)


def assert_sound(rows: Rows, train: list[int], test: list[int]) -> None:
    assert sorted(train + test) == list(range(len(rows)))
    assert train == sorted(train)
    assert test == sorted(test)
    in_train, in_test = [rows[i] for i in train], [rows[i] for i in test]
    assert {group for _, group in in_train}.isdisjoint(group for _, group in in_test)
    for label, groups in groups_of(rows).items():
        if len(groups) > 1:
            assert label in {label for label, _ in in_train}
            assert label in {label for label, _ in in_test}


@given(rows=pure_rows, seed=st.integers(0, 3), test_fraction=fractions)
def test_split_of_single_class_groups(rows: Rows, seed: int, test_fraction: float) -> None:
    found = split(rows, seed=seed, test_fraction=test_fraction)
    per_class = groups_of(rows)
    if all(len(groups) == 1 for groups in per_class.values()):
        assert found is None
        return
    assert found is not None
    assert_sound(rows, *found)
    tested = [rows[i] for i in found[1]]
    for label, groups in per_class.items():
        if len(groups) == 1:
            assert label not in {label for label, _ in tested}
            continue
        # As near as whole groups come, give or take one: in a random order, or to fill both sides.
        total = sum(other == label for other, _ in rows)
        largest = max(sum(row == (label, group) for row in rows) for group in groups)
        off = abs(sum(other == label for other, _ in tested) - test_fraction * total)
        assert off <= largest


@given(rows=mixed_rows, seed=st.integers(0, 3), test_fraction=fractions)
@example(rows=lone_must_move, seed=0, test_fraction=0.25)
def test_split_of_mixed_groups_is_found_exactly_when_there_is_one(rows: Rows, seed: int, test_fraction: float) -> None:
    found = split(rows, seed=seed, test_fraction=test_fraction)
    assert (found is not None) == possible(rows)
    if found is not None:
        assert_sound(rows, *found)


@given(rows=mixed_rows, seed=st.integers(0, 3), data=st.data())
def test_split_depends_on_the_seed_and_not_on_the_order_of_rows(rows: Rows, seed: int, data: st.DataObject) -> None:
    found = split(rows, seed=seed)
    assert found == split(rows, seed=seed)
    shuffled = data.draw(st.permutations(rows))
    again = split(shuffled, seed=seed)
    if found is None:
        assert again is None
    else:
        assert again is not None
        assert {rows[i][1] for i in found[1]} == {shuffled[i][1] for i in again[1]}


def test_equal_groups_are_split_to_the_row() -> None:
    rows: Rows = [(label, f"{label}{group}") for label in "abc" for group in range(8) for _ in range(5)]
    for fraction, n_groups in ((0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)):
        found = split(rows, test_fraction=fraction)
        assert found is not None
        tested = [rows[i][0] for i in found[1]]
        assert {label: tested.count(label) for label in "abc"} == dict.fromkeys("abc", 5 * n_groups)


def test_groups_that_each_hold_every_class_are_split_by_the_fraction() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 30, 4000).tolist(), rng.integers(0, 24, 4000).astype(str).tolist()
    for seed in range(5):
        _, test = split_by_group(labels, groups, seed=seed)
        assert len({groups[i] for i in test}) == 6


def test_a_huge_group_stays_in_train_where_a_small_one_can_go() -> None:
    rows: Rows = [("a", "huge")] * 1000 + [("a", "small")] * 3
    for seed in range(6):
        assert split(rows, seed=seed, test_fraction=0.001) == (list(range(1000)), [1000, 1001, 1002])


def test_a_class_of_one_group_stays_in_train_if_another_group_can_go() -> None:
    rows: Rows = [("a", "both"), ("lone", "both"), *[("a", "big")] * 20]
    for seed in range(6):
        assert split(rows, seed=seed, test_fraction=0.05) == ([0, 1], list(range(2, 22)))


def test_seeds_give_different_splits() -> None:
    rows: Rows = [("a", str(group)) for group in range(12)]
    found = [split(rows, seed=seed) for seed in range(10)]
    assert len({str(one) for one in found}) > 5


def test_takes_numpy_arrays() -> None:
    rows: Rows = [(label, f"{label}{group}") for label in "ab" for group in range(4)]
    labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    train, test = split_by_group(labels, groups)
    assert (train.tolist(), test.tolist()) == split(rows)
    assert train.dtype == test.dtype == np.intp


@pytest.mark.parametrize(
    ("labels", "groups", "options", "message"),
    [
        (["a", "b"], ["x", "y"], {}, "no split found that keeps groups whole: no class has two groups"),
        (["a", "b"], ["x", "x"], {}, "no class has two groups; label more videos"),
        ([], [], {}, "no class has two groups"),
        ([1, 1, 2, 2, 3, 3], list("xyyzxz"), {}, r"keeps groups whole: class \d stays on one side"),
        (["a"], ["x", "y"], {}, "1 labels but 2 groups"),
        (["a", None], ["x", "y"], {}, "a row without a label; split the labelled rows only"),
        (
            ["a", "a"],
            ["x", "y"],
            {"test_fraction": 0.0},
            "test_fraction=0.0, seed=0; give 0 < test_fraction < 1",
        ),
        (["a", "a"], ["x", "y"], {"test_fraction": 1.0}, "test_fraction=1.0, seed=0; give"),
        (["a", "a"], ["x", "y"], {"test_fraction": float("nan")}, "test_fraction=nan, seed=0; give"),
        (["a", "a"], ["x", "y"], {"seed": -1}, "test_fraction=0.25, seed=-1; give"),
    ],
)
def test_split_refuses(labels: list[Label], groups: list[str], options: dict[str, float], message: str) -> None:
    with pytest.raises(ProbeError, match=message) as caught:
        split_by_group(labels, groups, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# Into folds


@given(rows=st.one_of(pure_rows, mixed_rows), seed=st.integers(0, 3), folds=st.integers(2, 5))
def test_folds_keep_groups_whole(rows: Rows, seed: int, folds: int) -> None:
    labels, groups = zip(*rows, strict=True)
    if len(set(groups)) < folds:
        with pytest.raises(ProbeError, match=f"{folds} folds of {len(set(groups))} groups"):
            folds_by_group(labels, groups, folds=folds, seed=seed)
        return
    fold = folds_by_group(labels, groups, folds=folds, seed=seed)
    assert len(fold) == len(rows)
    assert set(fold.tolist()) <= set(range(folds))
    assert all(len({fold[i] for i in range(len(rows)) if groups[i] == group}) == 1 for group in groups)
    assert fold.tolist() == folds_by_group(labels, groups, folds=folds, seed=seed).tolist()


def test_folds_are_stratified() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    fold = folds_by_group(labels, [str(i) for i in range(100)], folds=5)
    for number in range(5):
        assert Counter(np.array(labels)[fold == number].tolist()) == {"a": 12, "b": 6, "c": 2}


def test_folds_are_as_even_as_scikit_learns() -> None:
    """On groups of unequal size and mixture, the spread of the classes' shares is no worse."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 600)
    labels = (groups + rng.integers(0, 4, 600)) % 5

    def spread(fold: np.ndarray) -> float:
        held = np.array([[(labels[fold == f] == k).sum() for k in range(5)] for f in range(5)])
        return float((held / held.sum(0)).std(axis=0).mean())

    theirs = np.empty(600, dtype=int)
    for number, (_, test) in enumerate(model_selection.StratifiedGroupKFold(5).split(labels, labels, groups)):
        theirs[test] = number
    names = [str(group) for group in groups]
    ours = [spread(folds_by_group(labels.tolist(), names, folds=5, seed=seed)) for seed in range(10)]
    assert np.mean(ours) <= 1.2 * spread(theirs)
    assert np.mean(ours) < 0.5 * spread(groups % 5)


def test_few_of_each_are_of_as_many_groups_as_there_are() -> None:
    labels, groups = ["a"] * 9 + ["b"] * 2, list("xxxyyyzzzuv")
    drawn = few_of_each(labels, groups, 3)
    assert Counter(labels[i] for i in drawn) == {"a": 3, "b": 2}
    assert {groups[i] for i in drawn} == set("xyzuv")
    assert drawn.tolist() == sorted(drawn.tolist())
    assert any(few_of_each(labels, groups, 3, seed=s).tolist() != drawn.tolist() for s in range(1, 9))
    with pytest.raises(ProbeError, match="few_shot=0"):
        few_of_each(labels, groups, 0)
    most = max(labels.count(label) for label in labels)
    few_of_each(labels, groups, most)
    with pytest.raises(ProbeError, match=f"no class has more than {most} clips"):
        few_of_each(labels, groups, most + 1)
