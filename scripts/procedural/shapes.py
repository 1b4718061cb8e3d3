"""Outlines of things, as how opaque a square is at each of its points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from procedural.dice import Dice

# Sprites are drawn on a square that reaches this far, so that their edges are whole.
REACH = 1.15
_EDGE = 18.0


def _soft(inside: Tensor) -> Tensor:
    """From signed depth (positive within) to opacity with a soft edge."""
    return torch.sigmoid(inside * _EDGE)


def _each(dice: Dice, low: float, high: float, count: int) -> Tensor:
    return dice.uniform(low, high, count, 1, 1)


def _ellipse(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.hypot(x, y / _each(dice, 0.45, 1, len(x)))


def _box(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    wide, tall = _each(dice, 0.4, 0.95, len(x)), _each(dice, 0.4, 0.95, len(x))
    return torch.minimum(wide - x.abs(), tall - y.abs())


def _polygon(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    corners = 3.0 + dice.choice(4, len(x), 1, 1)
    sector = 2 * math.pi / corners
    fold = (torch.atan2(y, x) % sector) - sector / 2
    return (sector / 2).cos() - torch.hypot(x, y) * fold.cos()


def _star(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    points = 4.0 + dice.choice(4, len(x), 1, 1)
    wave = torch.cos(points * torch.atan2(y, x))
    return 0.7 + _each(dice, 0.2, 0.28, len(x)) * wave - torch.hypot(x, y)


def _blob(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    angle, radius = torch.atan2(y, x), torch.full_like(x, 0.68)
    for wave in range(2, 6):
        height, phase = _each(dice, 0, 0.3 / wave, len(x)), _each(dice, 0, 2 * math.pi, len(x))
        radius = radius + height * torch.cos(wave * angle + phase)
    return radius - torch.hypot(x, y)


def _ring(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    width = _each(dice, 0.15, 0.3, len(x))
    return width - (torch.hypot(x, y) - (1 - width)).abs()


def _bar(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(0.97 - x.abs(), _each(dice, 0.15, 0.3, len(x)) - y.abs())


def _cross(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    arm = _each(dice, 0.18, 0.35, len(x))
    return torch.maximum(torch.minimum(0.95 - x.abs(), arm - y.abs()), torch.minimum(0.95 - y.abs(), arm - x.abs()))


def _crescent(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    bite = torch.hypot(x - _each(dice, 0.4, 0.6, len(x)), y) - 0.75
    return torch.minimum(0.97 - torch.hypot(x, y), bite)


def _gear(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    teeth = 8.0 + dice.choice(5, len(x), 1, 1)
    wave = (torch.cos(teeth * torch.atan2(y, x)) * 4).tanh()
    radius = torch.hypot(x, y)
    return torch.minimum(0.84 + 0.12 * wave - radius, radius - 0.3)


def _heart(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    x, y = x * 1.15, 0.15 - y * 1.15
    level = x**2 + (y - 0.62 * x.abs().clamp(min=1e-4).sqrt()) ** 2
    return (0.95 - level) * 0.6


def _arrow(dice: Dice, x: Tensor, y: Tensor) -> Tensor:
    shaft = torch.minimum(torch.minimum(x + 0.95, 0.25 - x), 0.22 - y.abs())
    head = torch.minimum(x - 0.05, (0.97 - x) * 0.75 - y.abs())
    return torch.maximum(shaft, head)


Outline = Callable[[Dice, Tensor, Tensor], Tensor]
TRAINED: dict[str, Outline] = {
    "ellipse": _ellipse,
    "box": _box,
    "polygon": _polygon,
    "star": _star,
    "blob": _blob,
    "ring": _ring,
    "bar": _bar,
    "cross": _cross,
}
HELD_OUT: dict[str, Outline] = {"crescent": _crescent, "gear": _gear, "heart": _heart, "arrow": _arrow}


def opacities(dice: Dice, outlines: list[Outline], kinds: Tensor, side: int) -> Tensor:
    """Cut out shapes.

    Args:
        kinds: ``(B,)`` places in ``outlines``.

    Returns:
        ``(B, side, side)``, 0 outside to 1 inside.
    """
    along = torch.linspace(-REACH, REACH, side, device=dice.device)
    opacity = torch.empty(len(kinds), side, side, device=dice.device)
    for kind, outline in enumerate(outlines):
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            grid = torch.meshgrid(along, along, indexing="xy")
            x, y = (axis.expand(len(chosen), -1, -1) for axis in grid)
            opacity[chosen] = _soft(outline(dice, x, y))
    return opacity
