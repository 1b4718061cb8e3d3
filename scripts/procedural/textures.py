"""Surfaces: a pattern from 0 to 1, coloured by a ramp of random colours."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from procedural.dice import Dice


def noise(dice: Dice, count: int, side: int, exponent: Tensor) -> Tensor:
    """Noise whose amplitude falls as 1/f**exponent, as natural pictures' does at about 1.

    Args:
        exponent: ``(count,)``; 0 is grain, 2 is cloud.

    Returns:
        ``(count, side, side)``, 0 to 1.
    """
    down = torch.fft.fftfreq(side, device=dice.device)[:, None]
    across = torch.fft.rfftfreq(side, device=dice.device)[None, :]
    frequency = torch.hypot(down, across).clamp(min=1 / side)
    spectrum = torch.fft.rfft2(dice.normal(count, side, side)) * frequency ** -exponent[:, None, None]
    return _stretched(torch.fft.irfft2(spectrum, s=(side, side)))


def _stretched(pattern: Tensor) -> Tensor:
    low = pattern.amin((-2, -1), keepdim=True)
    return (pattern - low) / (pattern.amax((-2, -1), keepdim=True) - low).clamp(min=1e-6)


def _axes(dice: Dice, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Two axes at right angles, turned and moved at random, about 0 to 1 across: ``(count, side, side)`` each."""
    along = torch.linspace(-0.5, 0.5, side, device=dice.device)
    x, y = along[None, None, :], along[None, :, None]
    turn = dice.uniform(0, 2 * math.pi, count, 1, 1)
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    return u + dice.uniform(0, 1, count, 1, 1), v + dice.uniform(0, 1, count, 1, 1)


def _sharpened(dice: Dice, pattern: Tensor) -> Tensor:
    """From a wave to hard edges, by chance."""
    return torch.sigmoid((pattern - 0.5) * dice.uniform(4, 40, len(pattern), 1, 1))


def _wave(phase: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(2 * math.pi * phase)


def _clouds(dice: Dice, count: int, side: int) -> Tensor:
    return noise(dice, count, side, dice.uniform(1.0, 2.2, count))


def _grain(dice: Dice, count: int, side: int) -> Tensor:
    return noise(dice, count, side, dice.uniform(0.2, 0.9, count))


def _blotches(dice: Dice, count: int, side: int) -> Tensor:
    return _sharpened(dice, noise(dice, count, side, dice.uniform(1.2, 2.0, count)))


def _gradient(dice: Dice, count: int, side: int) -> Tensor:
    return _stretched(_axes(dice, count, side)[0])


def _stripes(dice: Dice, count: int, side: int) -> Tensor:
    u, _ = _axes(dice, count, side)
    return _sharpened(dice, _wave(u * dice.uniform(2, 10, count, 1, 1)))


def _marble(dice: Dice, count: int, side: int) -> Tensor:
    u, _ = _axes(dice, count, side)
    warp = noise(dice, count, side, dice.uniform(1.2, 2.0, count)) * dice.uniform(0.5, 3, count, 1, 1)
    return _wave(u * dice.uniform(2, 8, count, 1, 1) + warp)


def _checks(dice: Dice, count: int, side: int) -> Tensor:
    u, v = _axes(dice, count, side)
    cells = dice.uniform(1.5, 6, count, 1, 1)
    product = torch.sin(2 * math.pi * u * cells) * torch.sin(2 * math.pi * v * cells)
    return _sharpened(dice, 0.5 + 0.5 * product)


def _dots(dice: Dice, count: int, side: int) -> Tensor:
    u, v = _axes(dice, count, side)
    cells = dice.uniform(3, 10, count, 1, 1)
    away = torch.hypot((u * cells) % 1 - 0.5, (v * cells) % 1 - 0.5)
    return torch.sigmoid((dice.uniform(0.2, 0.4, count, 1, 1) - away) * 25)


def _bricks(dice: Dice, count: int, side: int) -> Tensor:
    u, v = _axes(dice, count, side)
    row = v * dice.uniform(4, 10, count, 1, 1)
    column = u * dice.uniform(2, 6, count, 1, 1) + 0.5 * (row.floor() % 2)
    tint = torch.frac((row.floor() * 12.9898 + column.floor() * 78.233).sin().abs() * 43758.5453)
    mortar = ((row % 1) < 0.14) | ((column % 1) < 0.08)
    return torch.where(mortar, torch.zeros_like(tint), 0.35 + 0.65 * tint)


def _plaid(dice: Dice, count: int, side: int) -> Tensor:
    u, v = _axes(dice, count, side)
    across, down = (dice.uniform(2, 6, count, 1, 1) for _ in range(2))
    return (_sharpened(dice, _wave(u * across)) + _sharpened(dice, _wave(v * down))) / 2


def _cells(dice: Dice, count: int, side: int) -> Tensor:
    along = torch.linspace(0, 1, side, device=dice.device)
    places = torch.cartesian_prod(along, along).expand(count, -1, -1)
    near = torch.cdist(places, dice.uniform(0, 1, count, 24, 2)).topk(2, dim=-1, largest=False).values
    return ((near[..., 1] - near[..., 0]) * 12).clamp(max=1).view(count, side, side)


def _rings(dice: Dice, count: int, side: int) -> Tensor:
    along = torch.linspace(-0.5, 0.5, side, device=dice.device)
    middle = dice.uniform(-0.3, 0.3, count, 2, 1, 1)
    away = torch.hypot(along[None, None, :] - middle[:, 0], along[None, :, None] - middle[:, 1])
    return _sharpened(dice, _wave(away * dice.uniform(4, 12, count, 1, 1)))


def _triangles(dice: Dice, count: int, side: int) -> Tensor:
    u, v = _axes(dice, count, side)
    cells = dice.uniform(2, 6, count, 1, 1)
    leaning = (u * math.cos(turn) + v * math.sin(turn) for turn in (0, math.pi / 3, 2 * math.pi / 3))
    parity = torch.stack([(axis * cells * 2).floor() for axis in leaning]).sum(0) % 2
    return parity * dice.uniform(0.6, 1, count, 1, 1)


Pattern = Callable[[Dice, int, int], Tensor]
TRAINED: dict[str, Pattern] = {
    "clouds": _clouds,
    "grain": _grain,
    "blotches": _blotches,
    "gradient": _gradient,
    "stripes": _stripes,
    "marble": _marble,
    "checks": _checks,
    "dots": _dots,
    "bricks": _bricks,
}
HELD_OUT: dict[str, Pattern] = {"plaid": _plaid, "cells": _cells, "rings": _rings, "triangles": _triangles}


def textures(dice: Dice, patterns: list[Pattern], kinds: Tensor, side: int) -> Tensor:
    """Paint surfaces.

    Args:
        kinds: ``(B,)`` places in ``patterns``.

    Returns:
        ``(B, 3, side, side)``, 0 to 1.
    """
    pattern = torch.empty(len(kinds), side, side, device=dice.device)
    for kind, paint in enumerate(patterns):
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            pattern[chosen] = paint(dice, len(chosen), side)
    return _coloured(dice, pattern)


def _coloured(dice: Dice, pattern: Tensor) -> Tensor:
    """Three random colours along the pattern, in the light of a soft noise."""
    count, side = len(pattern), pattern.shape[-1]
    low, middle, high = dice.uniform(0.02, 0.98, 3, count, 3, 1, 1)
    # A third of all surfaces are nearly grey, as much of the world and all of infrared is.
    grey = dice.chance(0.35, count)[:, None, None, None] * dice.uniform(0.7, 1, count, 1, 1, 1)
    value = pattern[:, None]
    ramp = torch.where(value < 0.5, low + (middle - low) * 2 * value, middle + (high - middle) * (2 * value - 1))
    ramp = ramp + grey * (ramp.mean(1, keepdim=True) - ramp)
    depth = dice.uniform(0, 0.5, count, 1, 1, 1)
    light = noise(dice, count, side, torch.full((count,), 1.3, device=dice.device))[:, None]
    return (ramp * (1 - depth * light)).clamp(0, 1)
