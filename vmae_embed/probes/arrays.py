"""What probes share: what they accept, as scikit-learn's users pass it, and what follows from probabilities."""

# ruff: noqa: N803 - X and y are what every scikit-learn user types

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmae_embed.errors import ProbeError

Features: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Labels: TypeAlias = Sequence[str | int] | NDArray[Any]


def as_features(values: ArrayLike, width: int | None = None) -> Features:
    """Read ``(B, D)`` finite numbers, D as a probe was fitted to: float32 as it is, all else as float64.

    Raises:
        ProbeError: they are none.
    """
    try:
        features = np.asarray(values)
        if features.dtype != np.float32:
            features = features.astype(np.float64)
    except (TypeError, ValueError):
        raise ProbeError("embeddings that are no rows of numbers of one width; give (B, D)") from None
    if features.ndim != 2:
        raise ProbeError(f"embeddings of shape {features.shape}; give a (B, D) array")
    bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
    if bad:
        raise ProbeError(f"{bad} of {len(features)} embeddings hold NaN or infinity; drop those rows")
    if width is not None and features.shape[1] != width:
        raise ProbeError(f"embeddings {features.shape[1]} wide; the probe was fitted to {width}")
    return features


def as_labels(values: Labels) -> NDArray[Any]:
    """Read ``(B,)`` strings or ``(B,)`` integers, whatever array or sequence holds them.

    Raises:
        ProbeError: they are none.
    """
    # By way of objects: numpy would turn [1, "a"] into strings without a word.
    labels = np.asarray(values, dtype=object)
    for kind in (str, Integral):
        if labels.ndim == 1 and all(isinstance(value, kind) for value in labels):
            return np.asarray(labels.tolist())
    kinds = sorted({type(value).__name__ for value in labels.flat})
    raise ProbeError(f"labels {labels.shape} of {', '.join(kinds)}; give (B,) all str or all int")


def check_pairs(features: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return ``(K,)`` sorted classes and ``(B,)`` places in them.

    Raises:
        ProbeError: not a label a row, or fewer than two classes.
    """
    if len(features) != len(labels):
        raise ProbeError(f"{len(features)} embeddings but {len(labels)} labels; give one label a clip")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ProbeError(f"labels of one class or none: {classes.tolist()}; give two or more classes")
    return classes, codes


def unit_rows(rows: Features) -> NDArray[np.float64]:
    """Scale rows to length 1, as float64; those of zeros stay."""
    wide = rows.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return wide


class Predicting(ABC):
    """A probe that gives probabilities: what it predicts, and how often it is right, follow from them."""

    classes_: NDArray[Any]

    @abstractmethod
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Give ``(B, K)`` float64 probabilities, in the order of ``classes_``; rows sum to 1."""

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the most probable label of each of B rows of features, as ``(B,)``.

        Raises:
            ProbeError: as `predict_proba`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def score(self, X: Any, y: Labels) -> float:
        """Give the fraction of B rows of features whose predicted label is the given one.

        Raises:
            ProbeError: as `predict_proba`, or the labels are not B strings or integers, B > 0.
        """
        predicted, truth = self.predict(X), as_labels(y)
        if len(predicted) != len(truth) or not len(truth):
            raise ProbeError(f"{len(predicted)} embeddings and {len(truth)} labels; give one label a clip")
        return float(np.mean([a == b for a, b in zip(predicted.tolist(), truth.tolist(), strict=True)]))
