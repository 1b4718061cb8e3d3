"""Clips of one thing, with names for how it moves and looks: to teach with, and to judge features by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from procedural import motions, shapes, textures
from procedural.canvas import Canvas
from procedural.damage import damaged
from procedural.dice import Dice
from procedural.motions import Poses
from procedural.scenes import BACKDROP_SIDE, cameras, cut_outs, moments_of

_LOOKS = 8
# Slower, in half sides a frame, is as good as still: about a pixel.
_SLOWEST = 0.02
# Of taught clips' backdrops; the others are soft.
_BUSY = 0.25
PATHS, TURNINGS, SIZINGS = (list(kinds.values()) for kinds in (motions.PATHS, motions.TURNINGS, motions.SIZINGS))
PATTERNS, OUTLINES = list(textures.TRAINED.values()), list(shapes.TRAINED.values())
COURSE = 11
_SOFT = list(textures.TRAINED).index("clouds")


class LabelledClips(NamedTuple):
    """Clips and what they show.

    Attributes:
        clips: ``(B, T, 3, H, W)`` uint8.
        motion: ``(B,)`` which of ``motions``.
        look: ``(B,)`` which thing: a surface in its colours, and an outline.
        motions: names.
        looks: names.
    """

    clips: Tensor
    motion: Tensor
    look: Tensor
    motions: list[str]
    looks: list[str]


class TaughtClips(NamedTuple):
    """Clips and what a teacher may ask about them.

    Attributes:
        clips: ``(B, T, 3, H, W)`` uint8.
        kinds: ``(B, 5)`` places in `PATHS`, `TURNINGS`, `SIZINGS`, `PATTERNS` and `OUTLINES`.
        track: ``(B, T*5)`` of the thing: place, cosine and sine of its turn, logarithm of its stretch.
        course: ``(B, COURSE)`` how it moved, whenever and wherever it did: see `_course`.
        colour: ``(B, 3)`` of the thing on average, 0 to 1.
    """

    clips: Tensor
    kinds: Tensor
    track: Tensor
    course: Tensor
    colour: Tensor


def labelled_clips(dice: Dice, each: int, *, held_out: bool, frames: int, side: int, at_once: int = 8) -> LabelledClips:
    """Make every motion with every look.

    A look is one thing, drawn once. Backdrop, speed, place, tilt, size, light and damage are drawn
    anew for each clip, so neither label follows from them.

    Args:
        each: clips of every pair.
        held_out: of motions, surfaces and outlines that training never saw; else of those it did.
    """
    moves, outlines, patterns = (
        module.HELD_OUT if held_out else module.TRAINED for module in (motions, shapes, textures)
    )
    # Eight looks: each outline on one surface, or on two neighbouring ones where there are but four.
    surfaces, kinds = list(patterns), len(outlines)
    pairs = [(shape, (shape + turn) % len(surfaces)) for shape in range(kinds) for turn in range(_LOOKS // kinds)]
    looks = [f"{surfaces[surface]} {list(outlines)[shape]}" for shape, surface in pairs]
    labels = torch.cartesian_prod(torch.arange(len(moves)), torch.arange(len(pairs))).repeat(each, 1).to(dice.device)
    shaped, painted = torch.tensor(pairs, device=dice.device).unbind(1)
    colours, opacity = _vivid(cut_outs(dice, list(patterns.values()), painted, list(outlines.values()), shaped))
    made = []
    for part in labels.split(at_once):
        moments = moments_of(dice, len(part), frames)
        poses = motions.poses(dice, list(moves.values()), part[:, 0], moments)
        sprite = colours[part[:, 1]], opacity[part[:, 1]]
        made.append(_one_thing(dice, sprite, _nearly_central(dice, poses), moments, side))
    return LabelledClips(torch.cat(made), labels[:, 0], labels[:, 1], list(moves), looks)


def taught_clips(dice: Dice, count: int, *, frames: int, side: int) -> TaughtClips:
    """Make clips of training's own kinds, any path with any turning, sizing, surface and outline."""
    options = (PATHS, TURNINGS, SIZINGS, PATTERNS, OUTLINES)
    kinds = torch.stack([dice.choice(len(kind), count) for kind in options], 1)
    # Most move in one way at most, all else being still, which is the first kind of each.
    alone = dice.chance(0.6, count)[:, None] & (torch.arange(3, device=dice.device) != dice.choice(3, count)[:, None])
    kinds[:, :3] = kinds[:, :3].masked_fill(alone, 0)
    moments = moments_of(dice, count, frames)
    moving = [motions.poses(dice, kind, kinds[:, place], moments) for place, kind in enumerate(options[:3])]
    poses = _nearly_central(dice, motions.together(*moving))
    colours, opacity = _vivid(cut_outs(dice, PATTERNS, kinds[:, 3], OUTLINES, kinds[:, 4]))
    clips = _one_thing(dice, (colours, opacity), poses, moments, side, busy=_BUSY)
    colour = (colours * opacity[:, None]).sum((2, 3)) / opacity.sum((1, 2))[:, None]
    track = torch.stack(
        [poses.x.clamp(-1.5, 1.5), poses.y.clamp(-1.5, 1.5), poses.turn.cos(), poses.turn.sin(), poses.wide], 2
    )
    return TaughtClips(clips, kinds, track.flatten(1), _course(poses), colour)


def _course(poses: Poses) -> Tensor:
    """Sum motions up as logarithms, ``(B, COURSE)``.

    The speed across, down, turning and growing; how much each of these, the first two as one,
    changes from frame to frame; and how far all four got from the first frame to the last.
    Parts of half the frame's side, or of a doubling, or a third of a radian, count as alike.
    """
    ways = torch.stack([poses.x, poses.y, 0.35 * poses.turn, poses.wide])
    speed, change = (ways.diff(n=order).square().mean(2) for order in (1, 2))
    change = torch.cat([change[:2].sum(0, keepdim=True), change[2:]])
    got = (ways[..., -1] - ways[..., 0]).abs()
    return (torch.cat([speed.sqrt(), change.sqrt(), got]).T + _SLOWEST).log()


def _nearly_central(dice: Dice, poses: Poses) -> Poses:
    count = len(poses.x)
    return poses._replace(
        x=poses.x + dice.uniform(-0.2, 0.2, count, 1),
        y=poses.y + dice.uniform(-0.2, 0.2, count, 1),
        turn=poses.turn + dice.uniform(-0.4, 0.4, count, 1),
    )


def _vivid(sprite: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Stretch colours to all of 0 to 1."""
    colours, opacity = sprite
    low, high = colours.amin((1, 2, 3), keepdim=True), colours.amax((1, 2, 3), keepdim=True)
    return (colours - low) / (high - low).clamp(min=0.1), opacity


def _one_thing(
    dice: Dice, sprite: tuple[Tensor, Tensor], poses: Poses, moments: Tensor, side: int, busy: float = 0.0
) -> Tensor:
    count = len(moments)
    canvas = Canvas(cameras(dice, moments, unrest=0.1), side)
    # Most backdrops are soft, and things are large, so that things are what stands out.
    kinds = torch.where(dice.chance(busy, count), dice.choice(len(PATTERNS), count), _SOFT)
    behind = textures.textures(dice, PATTERNS, kinds, BACKDROP_SIDE)
    canvas.backdrop(behind, dice.uniform(0.5, 1.0, count))
    canvas.sprite(torch.arange(count, device=dice.device), *sprite, poses, dice.uniform(0.45, 0.7, count))
    return damaged(dice, canvas.clips(), share=0.5)
