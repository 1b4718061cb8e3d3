"""Articulated figures: two arms and two legs on a trunk, walking, waving, jumping or at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from procedural.canvas import Canvas
from procedural.dice import Dice
from procedural.motions import Poses

# Hip, knee, shoulder, elbow of the far side, then of the near side.
_JOINTS = 8
# Lengths of a figure that is 2 high, in the same order as limbs: thigh, shin, upper arm, forearm.
_LENGTHS = (0.5, 0.5, 0.38, 0.36)
_TRUNK, _NECK = 0.6, 0.2


def _angles(dice: Dice, moments: Tensor) -> Tensor:
    """Angles of the joints from hanging down, ``(B, T, 8)``."""
    count = len(moments)
    # Rest, swing and phase of each joint under each way of moving.
    gait = dice.uniform(0.35, 0.7, count, 1)
    zero = torch.zeros(count, 1, device=dice.device)
    raised, wave = dice.uniform(1.8, 2.9, count, 1), dice.uniform(0.3, 0.8, count, 1)
    ways = [
        # Walking: legs in opposite phase, arms against them, knees bend a quarter later.
        (
            [zero, zero + 0.3, zero, zero - 0.3] * 2,
            [gait, 0.6 * gait, 0.8 * gait, 0.4 * gait] * 2,
            [zero, zero + 0.25, zero + 0.5, zero + 0.5, zero + 0.5, zero + 0.75, zero, zero],
        ),
        # Waving one arm.
        (
            [zero, zero, zero, zero, zero, zero, raised, zero - 0.4],
            [zero, zero, zero, zero, zero, zero, 0.4 * wave, wave],
            [zero] * 8,
        ),
        # Jumping with arms and legs spread: both sides alike, the far one mirrored.
        (
            [zero - 0.3, zero, zero - 1.5, zero, zero + 0.3, zero, zero + 1.5, zero],
            [-0.6 * gait, zero, -2 * gait, zero, 0.6 * gait, zero, 2 * gait, zero],
            [zero] * 8,
        ),
        # Anything.
        (
            [dice.uniform(-1.2, 1.2, count, 1) for _ in range(_JOINTS)],
            [dice.uniform(0, 1, count, 1) for _ in range(_JOINTS)],
            [dice.uniform(0, 1, count, 1) for _ in range(_JOINTS)],
        ),
    ]
    rest, swing, phase = (torch.stack([torch.cat(way[part], 1) for way in ways]) for part in range(3))
    which = (dice.choice(len(ways), count), torch.arange(count, device=dice.device))
    beats = moments * dice.uniform(1.0, 3.0, count, 1) + dice.uniform(0, 1, count, 1)
    waves = torch.sin(2 * math.pi * (beats[..., None] + phase[which][:, None]))
    facing = dice.sign(count, 1, 1)
    return facing * (rest[which][:, None] + swing[which][:, None] * waves)


def _limb(start: tuple[Tensor, Tensor], angle: Tensor, length: float) -> tuple[Tensor, Tensor]:
    return start[0] + length * angle.sin(), start[1] + length * angle.cos()


def draw_figures(dice: Dice, canvas: Canvas, chosen: Tensor, poses: Poses, size: Tensor, moments: Tensor) -> None:
    """Paint a figure onto each of the chosen clips.

    Args:
        chosen: ``(n,)``.
        poses: of the hips.
        size: ``(n,)`` half the figure's height.
        moments: ``(n, T)``.
    """
    count = len(chosen)
    angles = _angles(dice, moments)
    bob = 0.08 * torch.sin(4 * math.pi * moments)
    hip = (torch.zeros_like(bob), bob)
    lean = dice.uniform(-0.25, 0.25, count, 1)
    shoulder = (hip[0] + _TRUNK * lean.sin(), hip[1] - _TRUNK * lean.cos())
    head = (shoulder[0] + _NECK * lean.sin(), shoulder[1] - _NECK * lean.cos())

    thickness = dice.uniform(0.07, 0.15, count)
    clothes, skin = dice.uniform(0.05, 0.95, 2, count, 3), dice.uniform(0.2, 0.9, count, 3)
    x, y = canvas.seen_by(chosen, poses, size)

    def capsule(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], radius: Tensor, colour: Tensor) -> None:
        from_x, from_y, along_x, along_y = (
            axis.expand_as(moments)[..., None, None] for axis in (*start, end[0] - start[0], end[1] - start[1])
        )
        dx, dy = x - from_x, y - from_y
        part = ((dx * along_x + dy * along_y) / (along_x**2 + along_y**2 + 1e-6)).clamp(0, 1)
        away = torch.hypot(dx - part * along_x, dy - part * along_y) / radius[:, None, None, None]
        canvas.fill(chosen, colour, torch.sigmoid((1 - away) * 9))

    def side(first: int, shade: float) -> None:
        for joint, start, colour in ((first, hip, clothes[0]), (first + 2, shoulder, clothes[1])):
            limb = 0 if joint == first else 2
            bend = _limb(start, angles[..., joint], _LENGTHS[limb])
            end = _limb(bend, angles[..., joint] + angles[..., joint + 1], _LENGTHS[limb + 1])
            capsule(start, bend, thickness, colour * shade)
            capsule(bend, end, thickness * 0.85, (colour if limb == 0 else skin) * shade)

    side(0, 0.7)
    capsule(hip, shoulder, thickness * 1.7, clothes[1])
    capsule(head, head, thickness * 1.6, skin)
    side(4, 1.0)
