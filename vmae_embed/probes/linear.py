"""A linear probe: multinomial logistic regression on frozen embeddings."""

# ruff: noqa: N803 - X and y are what every scikit-learn user types

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.probes.arrays import Features, Labels, Predicting, as_features, as_labels, check_pairs
from vmae_embed.splits import hold_out

NORMS = ("batch", "l2", "none")
# Strengths that a choice is made from, for embeddings scaled by ``batch``: seven decades hold every
# optimum that we met, from a hundred clips to a quarter of a million.
STRENGTHS = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0, 1e-1)
# For strengths that are only compared: their accuracies do not change below it.
_COMPARED_AT = 1e-5


class LinearProbe(Predicting):
    """Logistic regression, fitted to its optimum by full-batch L-BFGS.

    The objective is scikit-learn's ``LogisticRegression(C=1/l2)`` on the scaled embeddings: the sum
    over clips of the cross-entropy, plus ``l2 / 2`` times the sum of squared weights. Biases are not
    penalised. Two classes share one weight vector. The same input gives the same fit.

    Given several strengths, one is chosen: a fifth of the groups is held out, the strengths are
    fitted to the others one after the other, each from the last one's weights, and the one of the
    best accuracy on what was held out, of equal ones the strongest, is fitted to all. Where no group
    can be held out, as of one clip a class, the one nearest to 1 is: scikit-learn's default.

    Args:
        l2: strength of the penalty, above zero; larger is smoother. Several to choose from.
        norm: ``batch`` shifts and scales each feature to mean 0 and variance 1 over the clips of
            the fit, ``l2`` scales each embedding to length 1, ``none`` takes them as they are.
        max_iter: L-BFGS iterations to spend on a strength before giving up.
        device: that computes, in torch's words.
        seed: of the groups that are held out.

    Attributes:
        classes_: ``(K,)`` the distinct labels, sorted.
        coef_: ``(K, D)`` float64 weights on scaled features; ``(1, D)`` for two classes,
            where they speak for ``classes_[1]``.
        intercept_: ``(K,)`` float64 biases; ``(1,)`` for two classes.
        mean_: ``(D,)`` float64, subtracted from each feature.
        scale_: ``(D,)`` float64, by which each feature is then divided; 1 where it is constant.
        n_iter_: L-BFGS iterations spent on the last fit.
        l2_: the strength that was fitted.
        validation_: accuracy on what was held out, by strength; empty if there was no choice, or nothing to hold out.

    Raises:
        ProbeError: an argument is out of range.
    """

    reads: ClassVar[str] = "embeddings"
    classes_: NDArray[Any]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    n_iter_: int
    l2_: float
    validation_: dict[float, float]

    def __init__(
        self,
        *,
        l2: float | Sequence[float] = 1.0,
        norm: str = "batch",
        max_iter: int = 2000,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.l2 = l2
        strengths = self._strengths()
        # Without a penalty, classes that can be told apart have no optimum: the weights grow for ever.
        if not strengths or not all(0 < strength < np.inf for strength in strengths):
            raise ProbeError(f"l2={l2}: give a finite number above 0")
        if norm not in NORMS:
            raise ProbeError(f"norm={norm!r}: give {', '.join(NORMS)}")
        if max_iter < 1:
            raise ProbeError(f"max_iter={max_iter}: give a whole number above 0")
        self.norm = norm
        self.max_iter = max_iter
        self.device = device
        self.seed = seed

    def fit(self, X: ArrayLike, y: Labels, groups: Sequence[str] | None = None) -> LinearProbe:
        """Fit to ``(B, D)`` embeddings and their B labels; returns the probe itself.

        Args:
            X: float32 is not copied.
            y: strings or integers.
            groups: B names, of which no two sides of a choice share one; None: each row by itself.

        Raises:
            ProbeError: the embeddings are not ``(B, D)`` finite numbers, the labels are not
                B strings or B integers of two classes or more, or the fit did not converge.
        """
        features, labels = as_features(X), as_labels(y)
        classes, codes = check_pairs(features, labels)
        strengths, validation = self._strengths(), {}
        if len(strengths) > 1:
            validation = self._validate(features, codes, strengths, groups)
        # Strengths fall: of equal ones this is the strongest.
        chosen = max(validation, key=lambda strength: validation[strength]) if validation else _nearest_to_1(strengths)

        from vmae_embed.probes.logistic import Objective, Scaled

        rows = Scaled.by(self.norm, features)
        objective = Objective(rows, codes, len(classes), device=self.device)
        weights, n_iter = objective.minimise(chosen, _nothing(len(classes), features), max_iter=self.max_iter)
        self.classes_, self.mean_, self.scale_, self.n_iter_ = classes, rows.mean, rows.scale, n_iter
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]
        self.l2_, self.validation_ = chosen, validation
        return self

    def _strengths(self) -> list[float]:
        if isinstance(self.l2, Sequence):
            return sorted({float(strength) for strength in self.l2}, reverse=True)
        return [float(self.l2)]

    def _validate(
        self,
        features: Features,
        codes: NDArray[np.intp],
        strengths: Sequence[float],
        groups: Sequence[str] | None,
    ) -> dict[float, float]:
        from vmae_embed.probes.logistic import Objective, Scaled

        train, held_out = hold_out(codes, groups, seed=self.seed)
        if not len(held_out):
            return {}
        n_classes = int(codes.max()) + 1
        rows = Scaled.by(self.norm, features[train])
        asked = rows.with_rows(features[held_out])
        objective = Objective(rows, codes[train], n_classes, device=self.device)
        weights, found = _nothing(n_classes, features), {}
        for strength in strengths:
            weights, _ = objective.minimise(strength, weights, aim=_COMPARED_AT, max_iter=self.max_iter)
            guessed = np.concatenate([_probabilities(block, weights).argmax(axis=1) for block in asked.blocks()])
            found[strength] = float(np.mean(guessed == codes[held_out]))
        return found

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give ``(B, K)`` float64 probabilities, in the order of ``classes_``; rows sum to 1.

        Raises:
            ProbeError: the probe is not fitted, or the embeddings are not ``(B, D)`` finite
                numbers of the width it was fitted to.
        """
        if not hasattr(self, "coef_"):
            raise ProbeError("this LinearProbe is not fitted; call fit(X, y) first")
        features = as_features(X, len(self.mean_))
        from vmae_embed.probes.logistic import Scaled

        rows = Scaled(features, self.norm == "l2", self.mean_, self.scale_)
        weights = np.c_[self.coef_, self.intercept_]
        blocks = [_probabilities(block, weights) for block in rows.blocks()]
        return np.concatenate([np.empty((0, len(self.classes_))), *blocks])

    def to_dict(self) -> dict[str, Any]:
        """Return the settings and what was chosen, ready for JSON."""
        chosen = {str(strength): share for strength, share in self.validation_.items()}
        return {"norm": self.norm, "l2": self.l2_, "validation": chosen, "iterations": self.n_iter_}

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return what was learned, by name."""
        return {"coef": self.coef_, "intercept": self.intercept_, "mean": self.mean_, "scale": self.scale_}

    @classmethod
    def from_parts(cls, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> LinearProbe:
        """Make one of what `to_dict` and `arrays` gave; KeyError, TypeError or ValueError if it is not that."""
        probe = cls(l2=about["l2"], norm=about["norm"])
        probe.l2_, probe.n_iter_ = about["l2"], about["iterations"]
        probe.validation_ = {float(strength): share for strength, share in about["validation"].items()}
        probe.coef_, probe.intercept_ = arrays["coef"], arrays["intercept"]
        probe.mean_, probe.scale_ = arrays["mean"], arrays["scale"]
        rows = 1 if len(about["classes"]) == 2 else len(about["classes"])
        width = len(probe.mean_)
        if (probe.coef_.shape, probe.intercept_.shape, probe.scale_.shape) != ((rows, width), (rows,), (width,)):
            raise ValueError("arrays whose shapes do not fit each other")
        return probe


def _nearest_to_1(strengths: Sequence[float]) -> float:
    return min(strengths, key=lambda strength: abs(math.log(strength)))


def _nothing(n_classes: int, features: Features) -> NDArray[np.float64]:
    return np.zeros((1 if n_classes == 2 else n_classes, features.shape[1] + 1))


def _probabilities(block: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n, K)`` of scaled rows, by ``(K, D + 1)`` weights, or ``(1, D + 1)`` for two classes."""
    logits = block @ weights[:, :-1].T + weights[:, -1]
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities
