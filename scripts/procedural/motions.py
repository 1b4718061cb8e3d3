"""How things move: place, turn and size over a clip.

A motion maps moments to poses. Moments run from 0 to about 1 over a clip, at each thing's own
speed. Training draws a path, a turning and a sizing independently; the held-out motions are of
kinds that no training path, turning or sizing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from procedural.dice import Dice


class Poses(NamedTuple):
    """Where things are, ``(B, T)`` each: place, turn in radians, and natural logarithms of stretch."""

    x: Tensor
    y: Tensor
    turn: Tensor
    wide: Tensor
    tall: Tensor


Motion = Callable[[Dice, Tensor], Poses]


def _wave(turns: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * turns)


def still(dice: Dice, moments: Tensor) -> Poses:
    """Nothing moves."""
    rest = torch.zeros_like(moments)
    return Poses(rest, rest, rest, rest, rest)


def _heading(dice: Dice, count: int) -> tuple[Tensor, Tensor]:
    angle = dice.uniform(0, 2 * math.pi, count, 1)
    return angle.cos(), angle.sin()


def _drift(dice: Dice, moments: Tensor) -> Poses:
    x, y = _heading(dice, len(moments))
    way = (moments - 0.5) * dice.uniform(0.5, 1.6, len(moments), 1)
    return still(dice, moments)._replace(x=x * way, y=y * way)


def _oscillate(dice: Dice, moments: Tensor) -> Poses:
    x, y = _heading(dice, len(moments))
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.uniform(0.8, 2.2, len(moments), 1)
    way = _wave(phase) * dice.uniform(0.2, 0.6, len(moments), 1)
    return still(dice, moments)._replace(x=x * way, y=y * way)


def _fall(dice: Dice, moments: Tensor) -> Poses:
    start = dice.uniform(-1.0, -0.5, len(moments), 1)
    across = dice.uniform(-0.6, 0.6, len(moments), 1) * (moments - 0.5)
    return still(dice, moments)._replace(x=across, y=start + 1.5 * moments**2)


def _wander(dice: Dice, moments: Tensor) -> Poses:
    def axis() -> Tensor:
        waves = [
            _wave(dice.uniform(0, 1, len(moments), 1) + rate * moments) * dice.uniform(0, 0.5 / rate, len(moments), 1)
            for rate in (0.5, 1.1, 1.9, 3.1)
        ]
        return torch.stack(waves).sum(0)

    return still(dice, moments)._replace(x=axis(), y=axis())


def _jitter(dice: Dice, moments: Tensor) -> Poses:
    x, y, turn = dice.normal(3, *moments.shape) * dice.uniform(0.02, 0.07, len(moments), 1)
    return still(dice, moments)._replace(x=x, y=y, turn=2 * turn)


def _spin(dice: Dice, moments: Tensor) -> Poses:
    turns = moments * dice.uniform(0.4, 1.6, len(moments), 1) * dice.sign(len(moments), 1)
    return still(dice, moments)._replace(turn=2 * math.pi * turns)


def _swing(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.uniform(0.8, 2.5, len(moments), 1)
    return still(dice, moments)._replace(turn=_wave(phase) * dice.uniform(0.4, 1.2, len(moments), 1))


def _pulse(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.uniform(0.8, 2.5, len(moments), 1)
    size = _wave(phase) * dice.uniform(0.2, 0.5, len(moments), 1)
    return still(dice, moments)._replace(wide=size, tall=size)


def _grow(dice: Dice, moments: Tensor) -> Poses:
    size = (moments - 0.5) * dice.uniform(0.6, 1.6, len(moments), 1) * dice.sign(len(moments), 1)
    return still(dice, moments)._replace(wide=size, tall=size)


PATHS: dict[str, Motion] = {
    "still": still,
    "drift": _drift,
    "oscillate": _oscillate,
    "fall": _fall,
    "wander": _wander,
    "jitter": _jitter,
}
TURNINGS: dict[str, Motion] = {"still": still, "spin": _spin, "swing": _swing}
SIZINGS: dict[str, Motion] = {"still": still, "pulse": _pulse, "grow": _grow}
TRAINED: dict[str, Motion] = {**PATHS, **TURNINGS, **SIZINGS}


def _circle(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.sign(len(moments), 1)
    radius = dice.uniform(0.3, 0.5, len(moments), 1)
    return still(dice, moments)._replace(x=radius * _wave(phase), y=radius * _wave(phase + 0.25))


def _bounce(dice: Dice, moments: Tensor) -> Poses:
    air = (moments * dice.uniform(1.5, 2.5, len(moments), 1) + dice.uniform(0, 1, len(moments), 1)) % 1
    height = dice.uniform(0.6, 0.9, len(moments), 1) * 4 * air * (1 - air)
    squash = 0.4 * (1 - 8 * torch.minimum(air, 1 - air)).clamp(min=0)
    return still(dice, moments)._replace(y=0.45 - height, wide=squash, tall=-squash)


def _zigzag(dice: Dice, moments: Tensor) -> Poses:
    saw = (moments * dice.uniform(2, 3, len(moments), 1) + dice.uniform(0, 1, len(moments), 1)) % 1
    y = (4 * (saw - 0.5).abs() - 1) * dice.uniform(0.25, 0.4, len(moments), 1)
    return still(dice, moments)._replace(x=1.2 * (moments - 0.5) * dice.sign(len(moments), 1), y=y)


def _spiral(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + 1.6 * moments * dice.sign(len(moments), 1)
    radius = 0.08 + 0.55 * moments
    return still(dice, moments)._replace(
        x=radius * _wave(phase), y=radius * _wave(phase + 0.25), wide=0.6 * (moments - 0.5), tall=0.6 * (moments - 0.5)
    )


def _pendulum(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.uniform(1.0, 1.6, len(moments), 1)
    angle = _wave(phase) * dice.uniform(0.6, 0.9, len(moments), 1)
    return still(dice, moments)._replace(x=0.9 * angle.sin(), y=0.9 * angle.cos() - 0.75, turn=-angle)


def _steps(dice: Dice, moments: Tensor) -> Poses:
    x, y = _heading(dice, len(moments))
    beat = moments * dice.uniform(3, 5, len(moments), 1)
    way = (beat.floor() + ((beat % 1) * 4).clamp(max=1)) / beat.amax(1, keepdim=True) - 0.5
    return still(dice, moments)._replace(x=1.2 * x * way, y=1.2 * y * way)


def _flip(dice: Dice, moments: Tensor) -> Poses:
    phase = dice.uniform(0, 1, len(moments), 1) + moments * dice.uniform(0.8, 1.6, len(moments), 1)
    return still(dice, moments)._replace(wide=_wave(phase).abs().clamp(min=0.08).log())


def _roll(dice: Dice, moments: Tensor) -> Poses:
    way = (moments - 0.5) * dice.uniform(0.9, 1.4, len(moments), 1) * dice.sign(len(moments), 1)
    return still(dice, moments)._replace(x=way, y=torch.full_like(way, 0.35), turn=way / 0.28)


HELD_OUT: dict[str, Motion] = {
    "circle": _circle,
    "bounce": _bounce,
    "zigzag": _zigzag,
    "spiral": _spiral,
    "pendulum": _pendulum,
    "steps": _steps,
    "flip": _flip,
    "roll": _roll,
}


def poses(dice: Dice, motions: list[Motion], kinds: Tensor, moments: Tensor) -> Poses:
    """Move things.

    Args:
        kinds: ``(B,)`` places in ``motions``.
        moments: ``(B, T)``.
    """
    whole = Poses(*torch.zeros(5, *moments.shape, device=dice.device))
    for kind, motion in enumerate(motions):
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            for all_of_it, part in zip(whole, motion(dice, moments[chosen]), strict=True):
                all_of_it[chosen] = part
    return whole


def together(*parts: Poses) -> Poses:
    """Several motions at once."""
    return Poses(*(torch.stack(axis).sum(0) for axis in zip(*parts, strict=True)))
