"""Multinomial logistic regression to its optimum, in blocks of rows: memory does not grow with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.probes.arrays import Features, unit_rows
from vmae_embed.probes.threads import threads

# Largest entry of the mean objective's gradient that a fit aims at. At 1e-6 probabilities came
# within 1e-4 of the optimum's on average, l2 1e-4 to 100, standardised.
GRADIENT_AIMED_AT = 1e-6
# And that it may end with: near-duplicate clips can make the last digits endless. This is
# scikit-learn's default tolerance of the same quantity.
_GRADIENT_ACCEPTED = 1e-4
# Correction pairs that L-BFGS keeps: SciPy's default. torch's 100 costs ten times the memory.
_HISTORY = 10
_BLOCK = 8192
# Products of rows, widths and classes up to which float64 takes seconds; beyond it, float32 halves the time.
_FLOAT64_UP_TO = 2**33
# And up to which a pass takes some milliseconds of one core: more of them gain nothing.
_ONE_CORE_UP_TO = 2**26


@dataclass(frozen=True, slots=True)
class Scaled:
    """Rows of features as a probe sees them, prepared block by block.

    Attributes:
        features: ``(B, D)``.
        unit: whether each row is scaled to length 1.
        mean: ``(D,)`` float64, subtracted.
        scale: ``(D,)`` float64, by which is then divided.
    """

    features: Features
    unit: bool
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def by(cls, norm: str, features: Features) -> Scaled:
        """Scale features to mean 0 and variance 1 (``batch``), rows to length 1 (``l2``), or nothing (``none``)."""
        width = features.shape[1]
        plain = cls(features, norm == "l2", np.zeros(width), np.ones(width))
        if norm != "batch":
            return plain
        mean = sum(block.sum(0) for block in plain.blocks()) / max(len(features), 1)
        centred = cls(features, False, mean, np.ones(width))
        spread = np.sqrt(sum((block**2).sum(0) for block in centred.blocks()) / max(len(features), 1))
        # A constant feature's spread is not exactly 0: its mean is rounded.
        constant = spread <= len(features) * np.finfo(np.float64).eps * np.abs(mean)
        return cls(features, False, mean, np.where(constant, 1.0, spread))

    def with_rows(self, features: Features) -> Scaled:
        """Scale other rows alike."""
        return Scaled(features, self.unit, self.mean, self.scale)

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """Rows in order, as float64."""
        for start in range(0, len(self.features), _BLOCK):
            block = self.features[start : start + _BLOCK]
            yield unit_rows(block) if self.unit else (block.astype(np.float64) - self.mean) / self.scale


class _Flat(Exception):
    """The gradient is as small as wanted."""


class Objective:
    """Mean over rows of the cross-entropy, plus ``l2 / 2B`` times the sum of squared weights.

    Biases are not penalised. Two classes share one row of weights, which speaks for the second.
    Minimised by full-batch L-BFGS in units in which the curvature is about the same in all
    directions: Böhning's bound of it, a class's share of the covariance, plus the penalty's
    (*Annals of the Institute of Statistical Mathematics* 44, 1992).

    Args:
        rows: what to fit to.
        codes: ``(B,)`` class of each row.
        n_classes: K.
        device: that computes; float64 there, float32 where that would take too long.
    """

    def __init__(self, rows: Scaled, codes: NDArray[np.intp], n_classes: int, *, device: str = "cpu") -> None:
        self._rows, self._device = rows, torch.device(device)
        self._codes = torch.from_numpy(codes).to(self._device)
        self._n_classes = n_classes
        count, width = rows.features.shape
        products = count * width * n_classes
        self._dtype = torch.float64 if products <= _FLOAT64_UP_TO else torch.float32
        self._threads = 1 if products <= _ONE_CORE_UP_TO else None
        covariance = sum((block.T @ block for block in rows.blocks()), np.zeros((width, width))) / count
        self._variances, self._axes = np.linalg.eigh(covariance)

    def minimise(
        self, l2: float, start: NDArray[np.float64], *, aim: float = GRADIENT_AIMED_AT, max_iter: int
    ) -> tuple[NDArray[np.float64], int]:
        """Give ``(K, D + 1)`` weights, the bias last, and the iterations that found them.

        Args:
            l2: strength of the penalty.
            start: ``(K, D + 1)`` weights to start from.
            aim: largest entry of the gradient to stop at.
            max_iter: L-BFGS iterations to spend before giving up.

        Raises:
            ProbeError: they were spent.
        """
        penalty = l2 / len(self._codes)
        share = (1 - 1 / self._n_classes) / self._n_classes
        curvature = share * np.maximum(self._variances, 0) + penalty
        to_weights = self._as_tensor((self._axes / np.sqrt(curvature)) @ self._axes.T)
        from_weights = self._as_tensor((self._axes * np.sqrt(curvature)) @ self._axes.T)
        bias_unit = share**-0.5
        begin = self._as_tensor(start)
        point = torch.hstack([begin[:, :-1] @ from_weights, begin[:, -1:] / bias_unit]).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point],
            max_iter=max_iter,
            max_eval=100 * max_iter,  # never the limit: a line search takes 25 at most
            tolerance_grad=0.0,  # `_Flat` says when
            tolerance_change=0.0,  # a short step is no sign of the optimum
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
        best = (np.inf, start)

        def objective() -> torch.Tensor:
            nonlocal best
            weights = torch.hstack([point.detach()[:, :-1] @ to_weights, point.detach()[:, -1:] * bias_unit])
            loss, gradient = self._evaluate(weights, penalty)
            steepest = float(gradient.abs().max())
            if steepest < best[0]:
                best = steepest, weights.to("cpu", torch.float64).numpy()
            if steepest <= aim:
                raise _Flat
            point.grad = torch.hstack([gradient[:, :-1] @ to_weights, gradient[:, -1:] * bias_unit])
            return loss

        with contextlib.suppress(_Flat), threads(self._threads):
            optimizer.step(objective)  # type: ignore[no-untyped-call]
        n_iter = int(optimizer.state[point].get("n_iter", 0))
        if not best[0] <= max(aim, _GRADIENT_ACCEPTED):
            raise ProbeError(
                f"no optimum within {n_iter} iterations (gradient {best[0]:.1e}, wanted"
                f" {_GRADIENT_ACCEPTED:.0e}); standardize the embeddings, or raise l2 or max_iter"
            )
        return best[1], n_iter

    def _as_tensor(self, values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device, self._dtype)

    def _evaluate(self, weights: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The objective, and its gradient ``(K, D + 1)``; summed in float64."""
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        gradient = torch.zeros_like(weights, dtype=torch.float64)
        at = 0
        for block in self._rows.blocks():
            inputs = self._as_tensor(block)
            codes = self._codes[at : at + len(inputs)]
            at += len(inputs)
            logits = inputs @ weights[:, :-1].T + weights[:, -1]
            if self._n_classes == 2:
                logits = torch.hstack([torch.zeros_like(logits), logits])
            logs = torch.log_softmax(logits, 1)
            loss -= logs.gather(1, codes[:, None]).sum(dtype=torch.float64)
            residual = logs.exp_()
            residual[torch.arange(len(codes), device=self._device), codes] -= 1
            if self._n_classes == 2:
                residual = residual[:, 1:]
            gradient[:, :-1] += residual.T @ inputs
            gradient[:, -1] += residual.sum(0, dtype=torch.float64)
        wide = weights.to(torch.float64)
        loss = loss / at + penalty / 2 * wide[:, :-1].square().sum()
        gradient = gradient / at
        gradient[:, :-1] += penalty * wide[:, :-1]
        return loss, gradient.to(weights.dtype)
