"""What classical descriptors say of clips: how much changes where and when, and how fine surfaces are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

_GRID = 7


def mean_colour(clips: Tensor) -> Tensor:
    """Mean colours on a grid of 7 x 7, over all frames.

    Args:
        clips: ``(B, T, 3, H, W)`` uint8; so below.

    Returns:
        ``(B, 147)`` float32.
    """
    return torch.stack([adaptive_avg_pool2d(clip.float().mean(0), _GRID).flatten() for clip in clips])


def frame_difference(clips: Tensor) -> Tensor:
    """Mean absolute differences of successive frames, on a grid of 7 x 7 and for each moment: ``(B, 49 + T - 1)``."""
    rows = []
    for clip in clips:
        changed = clip.float().mean(1).diff(dim=0).abs()
        rows.append(torch.cat([adaptive_avg_pool2d(changed.mean(0)[None], _GRID).flatten(), changed.mean((1, 2))]))
    return torch.stack(rows)


def fineness(clips: Tensor, patch: int = 16) -> Tensor:
    """Mean logarithm of the amplitude of each wave over square patches of every second frame.

    Returns:
        ``(B, patch * (patch / 2 + 1))`` float32.
    """
    rows = []
    for clip in clips:
        tiles = (clip[::2].float().mean(1) / 255).unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3)
        rows.append(torch.fft.rfft2(tiles).abs().log1p().mean((0, 1, 2)).flatten())
    return torch.stack(rows)
