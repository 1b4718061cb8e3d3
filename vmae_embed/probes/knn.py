"""A weighted k-nearest-neighbour probe, as DINO judges frozen features."""

# ruff: noqa: N803 - X and y are what every scikit-learn user types

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.probes.arrays import Features, Labels, Predicting, as_features, as_labels, check_pairs, unit_rows

# Numbers of neighbours that DINO's evaluation tries (`eval_knn.py` of facebookresearch/dino: --nb_knn).
NEIGHBOURS = (10, 20, 100, 200)
# Similarities computed at once: 128 MiB.
_BLOCK = 2**24
# Rows that a choice of k is made on: enough to tell accuracies apart by two points.
_VALIDATED = 2000


class KNNProbe(Predicting):
    """Weighted k-NN (Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, 2021).

    Embeddings are scaled to length 1. The k fitted ones of the largest cosine s vote for their
    labels, with weights exp(s / temperature). Exact, in float64, in blocks. Of equally near ones
    those fitted first are taken.

    Given several k, one is chosen by the accuracy on fitted rows, at most 2,000 of them evenly
    spread, each without its own group; of equal ones the smallest.

    Args:
        k: neighbours that vote, at least 1; several to choose from.
        temperature: above zero; smaller listens to the nearest more. DINO's is 0.07.

    Attributes:
        classes_: ``(K,)`` the distinct labels, sorted.
        k_: the number of neighbours that vote.
        validation_: accuracy on fitted rows, by k; empty if there was no choice.

    Raises:
        ProbeError: an argument is out of range.
    """

    reads: ClassVar[str] = "embeddings"
    classes_: NDArray[Any]
    k_: int
    validation_: dict[int, float]

    def __init__(self, *, k: int | Sequence[int] = 20, temperature: float = 0.07) -> None:
        self.k = k
        if not self._counts() or self._counts()[0] < 1:
            raise ProbeError(f"k={k}: give whole numbers from 1 on")
        # Below it, exp(1 / temperature) is beyond float64.
        if not 0.002 <= temperature < np.inf:
            raise ProbeError(f"temperature={temperature}: give a number from 0.002 on")
        self.temperature = temperature

    def _counts(self) -> list[int]:
        return sorted({int(count) for count in self.k}) if isinstance(self.k, Sequence) else [int(self.k)]

    def fit(self, X: ArrayLike, y: Labels, groups: Sequence[str] | None = None) -> KNNProbe:
        """Keep ``(B, D)`` embeddings and their B labels; returns the probe itself.

        Args:
            X: float32 is not copied.
            y: strings or integers.
            groups: B names: where k is chosen, nobody votes for their own; None: each row by itself.

        Raises:
            ProbeError: the embeddings are not ``(B, D)`` finite numbers, or the labels are not
                B strings or B integers of two classes or more.
        """
        features, labels = as_features(X), as_labels(y)
        classes, codes = check_pairs(features, labels)
        counts, validation = self._counts(), {}
        if len(counts) > 1:
            validation = self._validate(features, codes, len(classes), groups)
        self.k_ = max(validation, key=lambda count: validation[count]) if validation else counts[0]
        self.classes_, self.validation_ = classes, validation
        self._features, self._codes = features, codes
        return self

    def _validate(
        self, features: Features, codes: NDArray[np.intp], n_classes: int, groups: Sequence[str] | None
    ) -> dict[int, float]:
        own = np.arange(len(codes)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        asked = np.unique(np.linspace(0, len(codes) - 1, min(_VALIDATED, len(codes))).astype(np.intp))
        right = dict.fromkeys(self._counts(), 0)
        at = 0
        for similarities in _similarities(features[asked], features):
            for row in similarities:
                row[own == own[asked[at]]] = -np.inf
                nearest = _nearest(row, self._counts()[-1])
                nearest = nearest[np.isfinite(row[nearest])]
                for count in right:
                    votes = self._votes(row, nearest[:count], codes, n_classes)
                    right[count] += int(votes.argmax() == codes[asked[at]])
                at += 1
        return {count: n_right / len(asked) for count, n_right in right.items()}

    def _votes(
        self, row: NDArray[np.float64], nearest: NDArray[np.intp], codes: NDArray[np.intp], n_classes: int
    ) -> NDArray[np.float64]:
        weights = np.exp(row[nearest] / self.temperature)
        return np.bincount(codes[nearest], weights=weights, minlength=n_classes).astype(np.float64)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give each class's share of the votes, ``(B, K)`` float64, in the order of ``classes_``.

        Raises:
            ProbeError: the probe is not fitted, or the embeddings are not ``(B, D)`` finite
                numbers of the width it was fitted to.
        """
        if not hasattr(self, "classes_"):
            raise ProbeError("this KNNProbe is not fitted; call fit(X, y) first")
        features = as_features(X, self._features.shape[1])
        votes = [
            self._votes(row, _nearest(row, self.k_), self._codes, len(self.classes_))
            for block in _similarities(features, self._features)
            for row in block
        ]
        shares = np.array(votes).reshape(-1, len(self.classes_))
        normed: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return normed

    def to_dict(self) -> dict[str, Any]:
        """Return the settings and what was chosen, ready for JSON."""
        chosen = {str(count): share for count, share in self.validation_.items()}
        return {"k": self.k_, "temperature": self.temperature, "validation": chosen}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was kept, by name."""
        return {"features": self._features, "codes": self._codes.astype(np.int64)}

    @classmethod
    def from_parts(cls, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> KNNProbe:
        """Make one of what `to_dict` and `arrays` gave; KeyError, TypeError or ValueError if it is not that."""
        probe = cls(k=about["k"], temperature=about["temperature"])
        probe.k_ = about["k"]
        probe.validation_ = {int(count): share for count, share in about["validation"].items()}
        probe._features, probe._codes = as_features(arrays["features"]), arrays["codes"]
        if probe._codes.shape != (len(probe._features),) or not 0 <= probe._codes.max(initial=0) < len(
            about["classes"]
        ):
            raise ValueError("arrays whose shapes do not fit each other")
        return probe


def _similarities(queries: Features, fitted: Features) -> Iterator[NDArray[np.float64]]:
    """Cosines ``(n, B)`` of some queries after the other."""
    at_a_time = max(_BLOCK // len(fitted), 1)
    rows_at_a_time = max(_BLOCK // fitted.shape[1], 1)
    for start in range(0, len(queries), at_a_time):
        asked = unit_rows(queries[start : start + at_a_time])
        yield np.hstack(
            [asked @ unit_rows(fitted[at : at + rows_at_a_time]).T for at in range(0, len(fitted), rows_at_a_time)]
        )


def _nearest(row: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Places of the ``count`` largest, largest first; of equal ones the first."""
    if count < len(row):
        least = np.partition(row, len(row) - count)[len(row) - count]
        candidates = np.flatnonzero(row >= least)
    else:
        candidates = np.arange(len(row))
    return candidates[np.argsort(-row[candidates], kind="stable")][:count]
