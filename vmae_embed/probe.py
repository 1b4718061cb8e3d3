"""A linear probe: multinomial logistic regression on frozen embeddings."""

# ruff: noqa: N803 - X and y are what every scikit-learn user types

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from operator import eq
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmae_embed.errors import ProbeError

# Largest entry of the mean objective's gradient that a fit aims at. At 1e-6 probabilities came
# within 1e-4 of the optimum's on average, l2 1e-4 to 100, standardised.
_GRADIENT_AIMED_AT = 1e-6
# And that it may end with: near-duplicate clips can make the last digits endless. This is
# scikit-learn's default tolerance of the same quantity.
_GRADIENT_ACCEPTED = 1e-4
# Correction pairs that L-BFGS keeps: SciPy's default. torch's 100 costs ten times the memory.
_HISTORY = 10


class LinearProbe:
    """Logistic regression, fitted to its optimum in float64 by full-batch L-BFGS.

    The objective is scikit-learn's ``LogisticRegression(C=1/l2)`` on the standardised
    embeddings: the sum over clips of the cross-entropy, plus ``l2 / 2`` times the sum of
    squared weights. Biases are not penalised. Two classes share one weight vector. The same
    input gives the same fit; there is no randomness.

    Args:
        l2: strength of the penalty, above zero; larger is smoother.
        max_iter: L-BFGS iterations to spend before giving up.
        standardize: shift and scale each feature to mean 0 and variance 1 over the clips
            of the fit.

    Attributes:
        classes_: ``(K,)`` the distinct labels, sorted.
        coef_: ``(K, D)`` float64 weights on standardised features; ``(1, D)`` for two classes,
            where they speak for ``classes_[1]``.
        intercept_: ``(K,)`` float64 biases; ``(1,)`` for two classes.
        mean_: ``(D,)`` float64, subtracted from each feature.
        scale_: ``(D,)`` float64, by which each feature is then divided; 1 where it is constant.
        n_iter_: L-BFGS iterations spent.

    Raises:
        ProbeError: ``l2`` or ``max_iter`` is not above zero.
    """

    classes_: NDArray[Any]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    n_iter_: int

    def __init__(self, *, l2: float = 1.0, max_iter: int = 2000, standardize: bool = True) -> None:
        # Without a penalty, classes that can be told apart have no optimum: the weights grow for ever.
        if not 0 < l2 < np.inf:
            raise ProbeError(f"l2={l2}: give a finite number above 0")
        if max_iter < 1:
            raise ProbeError(f"max_iter={max_iter}: give a whole number above 0")
        self.l2 = l2
        self.max_iter = max_iter
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: Sequence[str | int] | NDArray[Any]) -> LinearProbe:
        """Fit to ``(B, D)`` embeddings and their B labels; returns the probe itself.

        Raises:
            ProbeError: the embeddings are not ``(B, D)`` finite numbers, the labels are not
                B strings or B integers of two classes or more, or the fit did not converge.
        """
        features, labels = _as_features(X), _as_labels(y)
        if len(features) != len(labels):
            raise ProbeError(f"{len(features)} embeddings but {len(labels)} labels; give one label a clip")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ProbeError(f"labels of one class or none: {classes.tolist()}; give two or more classes")

        mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
        if self.standardize:
            mean, spread = features.mean(axis=0), features.std(axis=0)
            # A constant feature's spread is not exactly 0: its mean is rounded.
            constant = spread <= len(features) * np.finfo(np.float64).eps * np.abs(mean)
            scale = np.where(constant, 1.0, spread)
        weights, n_iter = self._minimise((features - mean) / scale, codes, len(classes))

        self.classes_, self.mean_, self.scale_, self.n_iter_ = classes, mean, scale, n_iter
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give ``(B, K)`` float64 probabilities, in the order of ``classes_``; rows sum to 1.

        Raises:
            ProbeError: the probe is not fitted, or the embeddings are not ``(B, D)`` finite
                numbers of the width it was fitted to.
        """
        if not hasattr(self, "coef_"):
            raise ProbeError("this LinearProbe is not fitted; call fit(X, y) first")
        features = _as_features(X)
        if features.shape[1] != len(self.mean_):
            raise ProbeError(f"embeddings {features.shape[1]} wide; the probe was fitted to {len(self.mean_)}")
        logits = (features - self.mean_) / self.scale_ @ self.coef_.T + self.intercept_
        if len(self.classes_) == 2:
            logits = np.hstack([np.zeros_like(logits), logits])
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the most probable label of each of ``(B, D)`` embeddings, as ``(B,)``.

        Raises:
            ProbeError: as `predict_proba`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def score(self, X: ArrayLike, y: Sequence[str | int] | NDArray[Any]) -> float:
        """Give the fraction of ``(B, D)`` embeddings whose predicted label is the given one.

        Raises:
            ProbeError: as `predict_proba`, or the labels are not B strings or integers, B > 0.
        """
        predicted, truth = self.predict(X).tolist(), _as_labels(y).tolist()
        if len(predicted) != len(truth) or not truth:
            raise ProbeError(f"{len(predicted)} embeddings and {len(truth)} labels; give one label a clip")
        return float(np.mean(list(map(eq, predicted, truth))))

    def _minimise(
        self, features: NDArray[np.float64], codes: NDArray[np.intp], n_classes: int
    ) -> tuple[NDArray[np.float64], int]:
        """Give ``(K, D + 1)`` weights, the bias last, and the iterations that found them."""
        import torch
        from torch.nn.functional import cross_entropy, linear

        inputs, targets = torch.from_numpy(features), torch.from_numpy(codes)
        rows = 1 if n_classes == 2 else n_classes
        weights = torch.zeros(rows, features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        # Solved in units that keep the penalty's curvature below 1, which a large l2 would else
        # set far above that of the biases.
        unit: float = (1 + self.l2 / len(features)) ** -0.5
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=self.max_iter,
            max_eval=100 * self.max_iter,  # never the limit: a line search takes 25 at most
            tolerance_grad=_GRADIENT_AIMED_AT,
            tolerance_change=0.0,  # a short step is no sign of the optimum
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        # The mean over clips, not the sum, so that one tolerance suits every B.
        @torch.enable_grad()
        def objective() -> torch.Tensor:
            optimizer.zero_grad()
            logits = linear(inputs, weights[:, :-1] * unit, weights[:, -1])
            if n_classes == 2:
                logits = torch.hstack([torch.zeros_like(logits), logits])
            penalty = self.l2 / 2 * (weights[:, :-1] * unit).square().sum() / len(inputs)
            loss = cross_entropy(logits, targets) + penalty
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        n_iter = int(optimizer.state[weights]["n_iter"])
        objective()
        assert weights.grad is not None
        gradient = float(weights.grad.abs().max())
        if not gradient <= _GRADIENT_ACCEPTED:
            raise ProbeError(
                f"no optimum within {n_iter} iterations (gradient {gradient:.1e}, wanted"
                f" {_GRADIENT_ACCEPTED:.0e}); standardize the embeddings, or raise l2 or max_iter"
            )
        solution = weights.detach().numpy()
        solution[:, :-1] *= unit
        return solution, n_iter


def _as_features(X: ArrayLike) -> NDArray[np.float64]:
    """Read ``(B, D)`` finite float64 numbers."""
    try:
        features = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        raise ProbeError("embeddings that are no rows of numbers of one width; give (B, D)") from None
    if features.ndim != 2:
        raise ProbeError(f"embeddings of shape {features.shape}; give a (B, D) array")
    bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
    if bad:
        raise ProbeError(f"{bad} of {len(features)} embeddings hold NaN or infinity; drop those rows")
    return features


def _as_labels(y: Sequence[str | int] | NDArray[Any]) -> NDArray[Any]:
    """Read ``(B,)`` strings or ``(B,)`` integers, whatever array or sequence holds them."""
    # By way of objects: numpy would turn [1, "a"] into strings without a word.
    values = np.asarray(y, dtype=object)
    for kind in (str, Integral):
        if values.ndim == 1 and all(isinstance(value, kind) for value in values):
            return np.asarray(values.tolist())
    kinds = sorted({type(value).__name__ for value in values.flat})
    raise ProbeError(f"labels {values.shape} of {', '.join(kinds)}; give (B,) all str or all int")
