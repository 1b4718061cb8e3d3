"""What cameras and codecs do to pictures: light, blur, noise, blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from procedural.dice import Dice

# JPEG's luminance table at quality 50, in parts of 255 (ITU-T T.81, table K.1), by how far a
# coefficient is from the mean: its diagonal, which is all that a rough codec needs.
_JPEG_DIAGONAL = (16, 12, 16, 29, 68, 109, 103, 99)


def light(dice: Dice, clips: Tensor) -> Tensor:
    """Let brightness drift, flicker and fall across the frame, in half of the clips.

    Args:
        clips: ``(B, T, 3, H, W)``, 0 to 1.
    """
    count, frames = clips.shape[:2]
    lit = dice.chance(0.5, count)[:, None]
    moments = torch.linspace(0, 1, frames, device=clips.device)[None]
    wave = torch.sin(2 * math.pi * (moments * dice.uniform(0, 2, count, 1) + dice.uniform(0, 1, count, 1)))
    gain = wave * dice.uniform(0, 0.2, count, 1)
    gain = gain + dice.normal(count, frames) * dice.uniform(0, 0.05, count, 1) * dice.chance(0.3, count)[:, None]
    along = torch.linspace(-1, 1, clips.shape[-1], device=clips.device)
    angle = dice.uniform(0, 2 * math.pi, count, 1, 1)
    slope = (angle.cos() * along[None, None, :] + angle.sin() * along[None, :, None]) * dice.uniform(
        0, 0.35, count, 1, 1
    )
    gains = 1 + (lit * gain)[:, :, None, None] + (lit[..., None] * slope)[:, None]
    return clips * gains[:, :, None]


def blur(dice: Dice, clips: Tensor) -> Tensor:
    """Blur a third of the clips, each evenly, by a Gaussian of 0.4 to 1.4 pixels."""
    chosen = dice.chance(0.35, len(clips)).nonzero()[:, 0]
    taps = torch.arange(-3, 4, device=clips.device)
    sigma = dice.uniform(0.4, 1.4, len(clips), 1)[chosen]
    kernel = (-(taps**2) / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    soft = clips.clone()
    for clip, weights in zip(chosen, kernel, strict=True):
        planes = clips[clip].flatten(0, 1)[:, None]
        across = conv2d(pad(planes, (3, 3, 0, 0), mode="replicate"), weights.view(1, 1, 1, 7))
        down = conv2d(pad(across, (0, 0, 3, 3), mode="replicate"), weights.view(1, 1, 7, 1))
        soft[clip] = down.view_as(clips[clip])
    return soft


def grain(dice: Dice, clips: Tensor) -> Tensor:
    """Add the noise of a sensor to a quarter of the clips: its pixels cannot be foretold, so more teaches nothing."""
    chosen = dice.chance(0.25, len(clips)).nonzero()[:, 0]
    level = dice.uniform(0.005, 0.04, len(clips), 1, 1, 1, 1)[chosen]
    noisy = clips.clone()
    noisy[chosen] += level * dice.normal(len(chosen), *clips.shape[1:])
    return noisy


def blocks(dice: Dice, clips: Tensor) -> Tensor:
    """Round a third of the clips' 8 x 8 cosine coefficients, as a codec of low quality does."""
    chosen = dice.chance(0.35, len(clips)).nonzero()[:, 0]
    coarseness = dice.uniform(0.3, 1.5, len(clips), 1, 1, 1, 1, 1, 1)[chosen]
    place = torch.arange(8, device=clips.device)
    cosines = torch.cos(math.pi * (2 * place[None, :] + 1) * place[:, None] / 16) / 2
    cosines[0] /= math.sqrt(2)
    diagonal = torch.tensor(_JPEG_DIAGONAL, device=clips.device) / 255
    steps = coarseness * torch.maximum(diagonal[:, None], diagonal[None, :])
    tiles = clips[chosen].unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    rounded = torch.round((cosines @ tiles @ cosines.T) / steps) * steps
    whole = clips.clone()
    whole[chosen] = (cosines.T @ rounded @ cosines).transpose(-3, -2).flatten(-4, -3).flatten(-2)
    return whole


def damaged(dice: Dice, clips: Tensor, share: float = 1.0) -> Tensor:
    """All of it, as a camera and then a codec would.

    Args:
        share: of the clips; the others stay as they are.

    Returns:
        ``(B, T, 3, H, W)`` uint8.
    """
    worse = blocks(dice, grain(dice, blur(dice, light(dice, clips))).clamp(0, 1))
    if share < 1:
        worse = torch.where(dice.chance(share, len(clips))[:, None, None, None, None], worse, clips)
    return (worse.clamp(0, 1) * 255).round().to(torch.uint8)
