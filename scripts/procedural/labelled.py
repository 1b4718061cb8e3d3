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
PATHS, TURNINGS, SIZINGS = (list(kinds.values()) for kinds in (motions.PATHS, motions.TURNINGS, motions.SIZINGS))
PATTERNS, OUTLINES = list(textures.TRAINED.values()), list(shapes.TRAINED.values())


class LabelledClips(NamedTuple):
    """Clips and what they show.

    Attributes:
        clips: ``(B, T, 3, H, W)`` uint8.
        motion: ``(B,)`` which of ``motions``.
        look: ``(B,)`` which pair of surface and outline.
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
    """

    clips: Tensor
    kinds: Tensor
    track: Tensor


def labelled_clips(dice: Dice, each: int, *, held_out: bool, frames: int, side: int, at_once: int = 8) -> LabelledClips:
    """Make every motion with every look.

    Backdrop, colours, speed, place, size, light and damage are drawn anew for each clip, so neither
    label follows from them.

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
    pair_table = torch.tensor(pairs, device=dice.device)
    made = []
    for part in labels.split(at_once):
        moments = moments_of(dice, len(part), frames)
        shaped, painted = pair_table[part[:, 1]].unbind(1)
        sprite = cut_outs(dice, list(patterns.values()), painted, list(outlines.values()), shaped)
        poses = motions.poses(dice, list(moves.values()), part[:, 0], moments)
        made.append(_one_thing(dice, list(patterns.values()), sprite, _nearly_central(dice, poses), moments, side))
    return LabelledClips(torch.cat(made), labels[:, 0], labels[:, 1], list(moves), looks)


def taught_clips(dice: Dice, count: int, *, frames: int, side: int) -> TaughtClips:
    """Make clips of training's own kinds, any path with any turning, sizing, surface and outline."""
    options = (PATHS, TURNINGS, SIZINGS, PATTERNS, OUTLINES)
    kinds = torch.stack([dice.choice(len(kind), count) for kind in options], 1)
    moments = moments_of(dice, count, frames)
    moving = [motions.poses(dice, kind, kinds[:, place], moments) for place, kind in enumerate(options[:3])]
    poses = _nearly_central(dice, motions.together(*moving))
    sprite = cut_outs(dice, PATTERNS, kinds[:, 3], OUTLINES, kinds[:, 4])
    clips = _one_thing(dice, PATTERNS, sprite, poses, moments, side)
    track = torch.stack(
        [poses.x.clamp(-1.5, 1.5), poses.y.clamp(-1.5, 1.5), poses.turn.cos(), poses.turn.sin(), poses.wide], 2
    )
    return TaughtClips(clips, kinds, track.flatten(1))


def _nearly_central(dice: Dice, poses: Poses) -> Poses:
    count = len(poses.x)
    return poses._replace(x=poses.x + dice.uniform(-0.2, 0.2, count, 1), y=poses.y + dice.uniform(-0.2, 0.2, count, 1))


def _one_thing(
    dice: Dice,
    patterns: list[textures.Pattern],
    sprite: tuple[Tensor, Tensor],
    poses: Poses,
    moments: Tensor,
    side: int,
) -> Tensor:
    count = len(moments)
    canvas = Canvas(cameras(dice, moments, unrest=0.3), side)
    # Backdrops are mostly soft, so that the thing is what stands out.
    behind = textures.textures(dice, patterns, dice.choice(len(patterns), count), BACKDROP_SIDE)
    soft = textures.textures(dice, [textures.TRAINED["clouds"]], dice.choice(1, count), BACKDROP_SIDE)
    behind = torch.where(dice.chance(0.7, count)[:, None, None, None], soft, behind)
    canvas.backdrop(behind, dice.uniform(0.5, 1.0, count))
    canvas.sprite(torch.arange(count, device=dice.device), *sprite, poses, dice.uniform(0.35, 0.55, count))
    return damaged(dice, canvas.clips())
