from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.probes import LinearProbe


def clusters(
    n_rows: int, width: int, n_classes: int, *, seed: int = 0, spread: float = 1.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping Gaussian classes of unequal size, on features of unequal scale and offset."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n_rows, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    y[:n_classes] = np.arange(n_classes)
    x = rng.normal(size=(n_classes, width))[y] + spread * rng.normal(size=(n_rows, width))
    x = x * rng.uniform(0.01, 10, width) + rng.normal(size=width)
    return x.astype(np.float32), y


SHAPES = [(300, 20, 2), (400, 12, 5), (90, 256, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("l2", [0.05, 1.0, 50.0])
def test_agrees_with_scikit_learn(shape: tuple[int, int, int], l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x, y = clusters(*shape)
    probe = LinearProbe(l2=l2).fit(x, y)
    scaler = preprocessing.StandardScaler().fit(x.astype(np.float64))
    features = scaler.transform(x.astype(np.float64))
    reference = linear_model.LogisticRegression(C=1 / l2, tol=1e-9, max_iter=10_000).fit(features, y)

    expected = reference.predict_proba(features)
    assert np.abs(probe.predict_proba(x) - expected).mean() < 1e-5
    assert np.abs(probe.predict_proba(x) - expected).max() < 5e-4
    assert probe.coef_.shape == reference.coef_.shape
    assert np.abs(probe.coef_ - reference.coef_).max() < 1e-2 * np.abs(reference.coef_).max()
    np.testing.assert_allclose(probe.mean_, scaler.mean_)
    np.testing.assert_allclose(probe.scale_, scaler.scale_)


@pytest.mark.parametrize("shape", SHAPES)
def test_stops_where_the_documented_objective_is_flat(shape: tuple[int, int, int]) -> None:
    x, y = clusters(*shape, seed=1)
    l2 = 0.7
    probe = LinearProbe(l2=l2).fit(x, y)
    features = (x - probe.mean_) / probe.scale_
    residual = probe.predict_proba(x) - np.eye(shape[2])[y]
    if shape[2] == 2:
        residual = residual[:, 1:]
    gradient = np.c_[residual.T @ features + l2 * probe.coef_, residual.sum(axis=0)]
    assert np.abs(gradient).max() / len(x) < 1.01e-6


@pytest.mark.parametrize("n_classes", [2, 4])
def test_leaves_the_bias_unpenalised(n_classes: int) -> None:
    x, y = clusters(200, 6, n_classes)
    frequencies = np.bincount(y) / len(y)
    probabilities = LinearProbe(l2=1e9).fit(x, y).predict_proba(x)
    np.testing.assert_allclose(probabilities, np.tile(frequencies, (200, 1)), atol=1e-5)


@pytest.mark.parametrize("l2", [1e-6, 1e6])
def test_converges_at_extreme_penalties(l2: float) -> None:
    x, y = clusters(90, 256, 7)
    assert LinearProbe(l2=l2, max_iter=100).fit(x, y).n_iter_ < 100


def test_smaller_l2_fits_the_training_rows_closer() -> None:
    x, y = clusters(120, 40, 3)
    likelihoods = []
    for l2 in (100.0, 1.0, 0.01):
        probabilities = LinearProbe(l2=l2).fit(x, y).predict_proba(x)
        likelihoods.append(np.log(probabilities[np.arange(120), y]).mean())
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0] + 0.1


def test_standardising_makes_scale_and_offset_of_features_irrelevant() -> None:
    x, y = clusters(150, 10, 3)
    x = x.astype(np.float64)
    moved = x * np.geomspace(1e-4, 1e4, 10) + 7
    np.testing.assert_allclose(
        LinearProbe().fit(moved, y).predict_proba(moved), LinearProbe().fit(x, y).predict_proba(x), atol=1e-6
    )


def test_without_standardising_the_features_are_used_as_they_are() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(150, 10, 3)
    probe = LinearProbe(l2=2.0, norm="none").fit(x, y)
    np.testing.assert_array_equal(probe.mean_, np.zeros(10))
    np.testing.assert_array_equal(probe.scale_, np.ones(10))
    reference = linear_model.LogisticRegression(C=0.5, tol=1e-9, max_iter=10_000).fit(x.astype(np.float64), y)
    expected = reference.predict_proba(x.astype(np.float64))
    assert np.abs(probe.predict_proba(x) - expected).mean() < 1e-5


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
def test_constant_features_change_nothing(value: float) -> None:
    x, y = clusters(101, 5, 3)
    probe = LinearProbe().fit(np.c_[x.astype(np.float64), np.full(101, value)], y)
    assert probe.scale_[-1] == 1
    assert np.abs(probe.coef_[:, -1]).max() < 1e-6
    plain = LinearProbe().fit(x, y)
    probabilities = probe.predict_proba(np.c_[x, np.full(101, value)])
    np.testing.assert_allclose(probabilities, plain.predict_proba(x), atol=1e-6)


def test_all_features_constant_gives_the_class_frequencies() -> None:
    probe = LinearProbe().fit(np.full((4, 3), 0.1), ["a", "a", "a", "b"])
    np.testing.assert_allclose(probe.predict_proba(np.full((1, 3), 0.1)), [[0.75, 0.25]], atol=1e-5)


def test_predictions_are_labels_as_given_and_probabilities_sum_to_one() -> None:
    x, y = clusters(100, 8, 3, spread=0.3)
    names = np.array(["walk", "run", "jump"], dtype=object)[y]
    probe = LinearProbe()
    assert probe.fit(x, names) is probe
    assert probe.classes_.tolist() == ["jump", "run", "walk"]
    probabilities = probe.predict_proba(x)
    assert probabilities.shape == (100, 3)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert probe.predict(x).tolist() == probe.classes_[probabilities.argmax(axis=1)].tolist()
    assert probe.score(x, names) == (probe.predict(x) == names).mean() > 0.9


def test_score_counts_exactly() -> None:
    x = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    probe = LinearProbe().fit(x, [3, 3, 7, 7])
    assert probe.predict(x).tolist() == [3, 3, 7, 7]
    assert probe.score(x, [3, 7, 7, 99]) == 0.5
    assert probe.score(x, ["3", "3", "7", "7"]) == 0.0


def test_huge_logits_overflow_nothing() -> None:
    probe = LinearProbe().fit([[-1.0], [1.0]], ["a", "b"])
    np.testing.assert_array_equal(probe.predict_proba([[-1e6], [1e6]]), [[1, 0], [0, 1]])


def test_two_fits_give_the_same_bits_and_row_order_gives_the_same_optimum() -> None:
    x, y = clusters(300, 30, 4)
    first, second = LinearProbe().fit(x, y), LinearProbe().fit(x, y)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.intercept_, second.intercept_)
    assert first.n_iter_ == second.n_iter_ > 1
    order = np.random.default_rng(0).permutation(300)
    shuffled = LinearProbe().fit(x[order], y[order])
    np.testing.assert_allclose(shuffled.predict_proba(x), first.predict_proba(x), atol=1e-4)


def test_the_input_is_left_alone() -> None:
    x, y = clusters(50, 4, 2)
    before = x.copy()
    LinearProbe().fit(x, y).predict(x)
    np.testing.assert_array_equal(x, before)


GOOD = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD, ["a", "a", "a"], r"one class or none: \['a'\]"),
        (np.empty((0, 2)), [], r"one class or none: \[\]"),
        (GOOD, ["a", "b"], "3 embeddings but 2 labels"),
        (GOOD[0], ["a", "b"], r"shape \(2,\); give a \(B, D\) array"),
        (GOOD[None], ["a"], r"shape \(1, 3, 2\); give"),
        (np.where(GOOD > 1, np.nan, GOOD), ["a", "b", "a"], "1 of 3 embeddings hold NaN or infinity"),
        (np.where(GOOD == 1, -np.inf, GOOD), ["a", "b", "a"], "2 of 3 embeddings hold NaN or infinity"),
        ([[1.0], [2.0, 3.0]], ["a", "b"], "no rows of numbers of one width"),
        ([["x"], ["y"]], ["a", "b"], "no rows of numbers of one width"),
        (GOOD, ["a", None, "b"], r"labels \(3,\) of NoneType, str; give"),
        (GOOD, ["a", 1, "b"], r"labels \(3,\) of int, str; give"),
        (GOOD, [1.0, 2.0, 1.0], r"labels \(3,\) of float; give"),
        (GOOD, [["a"], ["b"], ["a"]], r"labels \(3, 1\) of str; give"),
        (GOOD, "aba", r"labels \(\) of str; give"),
    ],
)
def test_fit_refuses(x: object, y: object, message: str) -> None:
    with pytest.raises(ProbeError, match=message) as caught:
        LinearProbe().fit(x, y)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_refused_fit_leaves_the_probe_unfitted() -> None:
    probe = LinearProbe()
    with pytest.raises(ProbeError, match="one class or none"):
        probe.fit(GOOD, ["a", "a", "a"])
    with pytest.raises(ProbeError, match="not fitted; call fit"):
        probe.predict(GOOD)


def test_predicting_before_fit_and_at_another_width_is_refused() -> None:
    for method in (LinearProbe().predict, LinearProbe().predict_proba):
        with pytest.raises(ProbeError, match="not fitted; call fit"):
            method(GOOD)
    with pytest.raises(ProbeError, match="not fitted; call fit"):
        LinearProbe().score(GOOD, ["a", "b", "a"])
    probe = LinearProbe().fit(GOOD, ["a", "b", "a"])
    with pytest.raises(ProbeError, match="embeddings 3 wide; the probe was fitted to 2"):
        probe.predict(np.zeros((1, 3)))
    with pytest.raises(ProbeError, match="1 of 1 embeddings hold NaN"):
        probe.predict([[np.nan, 0.0]])
    with pytest.raises(ProbeError, match="3 embeddings and 2 labels"):
        probe.score(GOOD, ["a", "b"])
    with pytest.raises(ProbeError, match="0 embeddings and 0 labels"):
        probe.score(np.empty((0, 2)), [])
    assert probe.predict_proba(np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("l2", [0.0, -1.0, np.inf, np.nan])
def test_l2_must_be_above_zero(l2: float) -> None:
    with pytest.raises(ProbeError, match=r"l2=.*: give a finite number above 0"):
        LinearProbe(l2=l2)


def test_max_iter_must_be_above_zero() -> None:
    with pytest.raises(ProbeError, match=r"max_iter=0: give a whole number above 0"):
        LinearProbe(max_iter=0)


def test_an_unfinished_fit_is_no_fit() -> None:
    x, y = clusters(300, 30, 4)
    probe = LinearProbe(max_iter=3)
    with pytest.raises(ProbeError, match=r"no optimum within 3 iterations \(gradient .*raise l2 or max_iter"):
        probe.fit(x, y)
    with pytest.raises(ProbeError, match="not fitted"):
        probe.predict(x)


def test_fits_inside_no_grad() -> None:
    import torch

    x, y = clusters(60, 4, 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = LinearProbe().fit(x, y)
    np.testing.assert_array_equal(inside.coef_, LinearProbe().fit(x, y).coef_)


def test_a_strength_is_chosen_on_groups_that_were_held_out() -> None:
    """Each group is one row, five times over: told apart, a weak penalty is wrong; together, it looks right."""
    x, y = clusters(60, 40, 3, spread=3.0)
    rows, labels, groups = np.repeat(x, 5, axis=0), np.repeat(y, 5), [str(i // 5) for i in range(300)]
    strengths = (1e4, 1e2, 1.0, 1e-2)
    grouped, ungrouped = (
        LinearProbe(l2=strengths).fit(rows, labels, groups),
        LinearProbe(l2=strengths).fit(rows, labels),
    )
    assert list(grouped.validation_) == sorted(strengths, reverse=True)
    assert grouped.validation_[1e-2] < 0.7 < ungrouped.validation_[1e-2]
    assert grouped.l2_ > ungrouped.l2_
    assert grouped.validation_[grouped.l2_] == max(grouped.validation_.values())
    alone = LinearProbe(l2=grouped.l2_).fit(rows, labels)
    np.testing.assert_allclose(grouped.predict_proba(rows), alone.predict_proba(rows), atol=1e-12)
    assert alone.validation_ == {}


def test_unit_rows_are_those_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x, y = clusters(150, 10, 3)
    features = preprocessing.normalize(x.astype(np.float64))
    reference = linear_model.LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(features, y)
    expected = reference.predict_proba(features)
    assert np.abs(LinearProbe(norm="l2").fit(x, y).predict_proba(x) - expected).mean() < 1e-5


def test_float32_and_several_blocks_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmae_embed.probes import logistic

    x, y = clusters(400, 12, 5)
    exact = LinearProbe().fit(x, y).predict_proba(x)
    monkeypatch.setattr(logistic, "_FLOAT64_UP_TO", 0)
    monkeypatch.setattr(logistic, "_BLOCK", 64)
    assert np.abs(LinearProbe().fit(x, y).predict_proba(x) - exact).mean() < 1e-4


@pytest.mark.parametrize("norm", ["", "batches"])
def test_norm_must_be_known(norm: str) -> None:
    with pytest.raises(ProbeError, match="give batch, l2, none"):
        LinearProbe(norm=norm)
