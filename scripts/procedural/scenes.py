"""Whole scenes for training: a backdrop, things, figures, what hides them, a camera, a codec."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from procedural import motions, shapes, textures
from procedural.canvas import Canvas
from procedural.damage import damaged
from procedural.dice import Dice
from procedural.figures import draw_figures
from procedural.motions import Poses

BACKDROP_SIDE, SPRITE_SIDE = 160, 64
# Most scenes show one to three things; a figure is in three of ten.
_MOST_THINGS = 3
_FIGURES, _HIDING = 0.3, 0.15


def random_clips(dice: Dice, count: int, *, frames: int, side: int, at_once: int = 8) -> Tensor:
    """Make scenes of what training may see.

    Args:
        count: B.
        at_once: clips that are painted together: a few on a CPU, for its caches.

    Returns:
        ``(B, T, 3, H, W)`` uint8.
    """
    sizes = [min(at_once, count - start) for start in range(0, count, at_once)]
    return torch.cat([_scenes(dice, size, frames, side) for size in sizes])


def moments_of(dice: Dice, count: int, frames: int) -> Tensor:
    """Moments of the frames, ``(B, T)``: from 0 to 1 at middling speed."""
    pace = dice.uniform(0.5, 1.3, count, 1)
    return pace * torch.linspace(0, 1, frames, device=dice.device)[None]


def cameras(dice: Dice, moments: Tensor, unrest: float) -> Poses:
    """Move cameras: half of them pan, turn, zoom and shake at random, the others stand still.

    Args:
        unrest: 0 never moves, 1 moves as hand-held ones do.
    """
    count = len(moments)

    def some(part: float) -> Tensor:
        return unrest * dice.chance(part, count)[:, None]

    angle, middle = dice.uniform(0, 2 * math.pi, count, 1), moments - 0.5
    pan = some(0.4) * dice.uniform(0.2, 1.2, count, 1) * middle
    shake = dice.normal(3, *moments.shape) * some(0.3) * dice.uniform(0.005, 0.04, count, 1)
    zoom = some(0.25) * dice.uniform(-0.6, 0.6, count, 1) * middle
    turn = some(0.15) * dice.uniform(-0.8, 0.8, count, 1) * middle
    return Poses(pan * angle.cos() + shake[0], pan * angle.sin() + shake[1], turn + shake[2], zoom, zoom)


def cut_outs(
    dice: Dice, patterns: list[textures.Pattern], painted: Tensor, outlines: list[shapes.Outline], shaped: Tensor
) -> tuple[Tensor, Tensor]:
    """Make sprites: colours ``(B, 3, S, S)``, brighter than their backdrop on one side, and opacity ``(B, S, S)``."""
    colours = textures.textures(dice, patterns, painted, SPRITE_SIDE)
    along = torch.linspace(-1, 1, SPRITE_SIDE, device=dice.device)
    from_where = dice.uniform(0, 2 * math.pi, len(painted), 1, 1)
    slope = from_where.cos() * along[None, None, :] + from_where.sin() * along[None, :, None]
    lit = 1 + slope * dice.uniform(0, 0.4, len(painted), 1, 1)
    opacity = shapes.opacities(dice, outlines, shaped, SPRITE_SIDE)
    return (colours * lit[:, None]).clamp(0, 1), opacity


def _scenes(dice: Dice, count: int, frames: int, side: int) -> Tensor:
    patterns = list(textures.TRAINED.values())
    outlines = list(shapes.TRAINED.values())
    moments = moments_of(dice, count, frames)
    canvas = Canvas(cameras(dice, moments, unrest=1.0), side)
    # Half of the backdrops are soft, as skies, walls and lawns out of focus are.
    behind = dice.choice(len(patterns), count)
    behind[dice.chance(0.4, count)] = list(textures.TRAINED).index("clouds")
    canvas.backdrop(textures.textures(dice, patterns, behind, BACKDROP_SIDE), dice.uniform(0.5, 1.0, count))

    things = dice.choice(_MOST_THINGS + 1, count)
    for number in range(_MOST_THINGS):
        chosen = (things > number).nonzero()[:, 0]
        if not len(chosen):
            continue
        kinds = (dice.choice(len(options), len(chosen)) for options in (patterns, outlines))
        colours, opacity = cut_outs(dice, patterns, next(kinds), outlines, next(kinds))
        canvas.sprite(
            chosen, colours, opacity, _moving(dice, len(chosen), frames), dice.uniform(0.2, 0.65, len(chosen))
        )

    chosen = dice.chance(_FIGURES, count).nonzero()[:, 0]
    if len(chosen):
        when = moments_of(dice, len(chosen), frames)
        where = _placed(dice, motions.poses(dice, _PATHS, dice.choice(len(_PATHS), len(chosen)), when), 0.4)
        draw_figures(dice, canvas, chosen, where, dice.uniform(0.35, 0.75, len(chosen)), when)

    chosen = dice.chance(_HIDING, count).nonzero()[:, 0]
    if len(chosen):
        bars = [shapes.TRAINED["bar"], shapes.TRAINED["box"]]
        kinds = (dice.choice(len(options), len(chosen)) for options in (patterns, bars))
        colours, opacity = cut_outs(dice, patterns, next(kinds), bars, next(kinds))
        still = motions.still(dice, moments[chosen])
        rest = _placed(dice, still._replace(turn=still.turn + dice.uniform(0, math.pi, len(chosen), 1)), 0.8)
        canvas.sprite(chosen, colours, opacity, rest, dice.uniform(0.4, 1.2, len(chosen)))
    return damaged(dice, canvas.clips())


_PATHS = list(motions.PATHS.values())
_TURNINGS = list(motions.TURNINGS.values())
_SIZINGS = list(motions.SIZINGS.values())


def _moving(dice: Dice, count: int, frames: int) -> Poses:
    """A path, a turning and a sizing at once, each at its own speed."""
    parts = [
        motions.poses(dice, options, dice.choice(len(options), count), moments_of(dice, count, frames))
        for options in (_PATHS, _TURNINGS, _SIZINGS)
    ]
    return _placed(dice, motions.together(*parts), 0.5)


def _placed(dice: Dice, poses: Poses, away: float) -> Poses:
    """Begin somewhere else than in the middle, at some tilt."""
    count = len(poses.x)
    return poses._replace(
        x=poses.x + dice.uniform(-away, away, count, 1),
        y=poses.y + dice.uniform(-away, away, count, 1),
        turn=poses.turn + dice.uniform(-0.4, 0.4, count, 1),
    )
