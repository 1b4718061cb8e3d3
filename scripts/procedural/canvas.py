"""A batch of clips while they are painted: what is behind first, then what is before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from procedural.motions import Poses

# Backdrops reach this far beyond the middle, and repeat mirrored beyond that.
BACKDROP_REACH = 1.8


class Canvas:
    """Clips ``(B, C, T*H, W)`` with the place in the world that each pixel sees.

    Attributes:
        picture: ``(B, 3, T*H, W)``, 0 to 1.
        x, y: ``(B, T, H, W)`` of each pixel in the world.
    """

    def __init__(self, camera: Poses, side: int) -> None:
        count, frames = camera.x.shape
        along = (torch.arange(side, device=camera.x.device) + 0.5) * (2 / side) - 1
        across, down = along[None, None, None, :], along[None, None, :, None]
        self.x, self.y = self._turned(camera, across, down)
        self.x = self.x + camera.x[..., None, None]
        self.y = self.y + camera.y[..., None, None]
        self.frames, self.side = frames, side
        self.picture = torch.zeros(count, 3, frames * side, side, device=camera.x.device)

    @staticmethod
    def _turned(poses: Poses, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (wave[..., None, None] for wave in (poses.turn.cos(), poses.turn.sin()))
        wide, tall = (stretch.exp()[..., None, None] for stretch in (poses.wide, poses.tall))
        return wide * (cos * x - sin * y), tall * (sin * x + cos * y)

    def _sample(self, picture: Tensor, x: Tensor, y: Tensor, beyond: str) -> Tensor:
        grid = torch.stack([x, y], dim=-1).flatten(1, 2)
        return grid_sample(picture, grid, padding_mode=beyond, align_corners=False)

    def backdrop(self, surface: Tensor, nearness: Tensor) -> None:
        """Fill everything with a surface ``(B, 3, S, S)``; far ones (nearness below 1) move less."""
        scale = (nearness / BACKDROP_REACH)[:, None, None, None]
        self.picture = self._sample(surface, self.x * scale, self.y * scale, "reflection")

    def sprite(self, chosen: Tensor, colours: Tensor, opacity: Tensor, poses: Poses, size: Tensor) -> None:
        """Paste a cut-out onto some of the clips.

        Args:
            chosen: ``(n,)`` which clips; all else is of those alone.
            colours: ``(n, 3, S, S)``.
            opacity: ``(n, S, S)``.
            size: ``(n,)`` half the side at rest.
        """
        x, y = self.seen_by(chosen, poses, size)
        painted = self._sample(torch.cat([colours, opacity[:, None]], 1), x, y, "zeros")
        self._blend(chosen, painted[:, :3], painted[:, 3:])

    def seen_by(self, chosen: Tensor, poses: Poses, size: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel lies on a thing, ``(n, T, H, W)``: 1 is the thing's edge at rest."""
        x = self.x[chosen] - poses.x[..., None, None]
        y = self.y[chosen] - poses.y[..., None, None]
        cos, sin = (wave[..., None, None] for wave in (poses.turn.cos(), poses.turn.sin()))
        wide, tall = ((size[:, None] * stretch.exp())[..., None, None] for stretch in (poses.wide, poses.tall))
        return (cos * x + sin * y) / wide, (cos * y - sin * x) / tall

    def fill(self, chosen: Tensor, colours: Tensor, opacity: Tensor) -> None:
        """Paint colours ``(n, 3)`` where ``(n, T, H, W)`` says."""
        self._blend(chosen, colours[:, :, None, None], opacity.flatten(1, 2)[:, None])

    def _blend(self, chosen: Tensor, colours: Tensor, opacity: Tensor) -> None:
        behind = self.picture[chosen]
        self.picture[chosen] = behind + (colours - behind) * opacity

    def clips(self) -> Tensor:
        """``(B, T, 3, H, W)``, 0 to 1."""
        return self.picture.unflatten(2, (self.frames, self.side)).transpose(1, 2)
