"""Random numbers of one seed on one device."""

from __future__ import annotations

import torch
from torch import Tensor


class Dice:
    """What every random choice of a scene is drawn with.

    Attributes:
        device: where the numbers are made and used.
        generator: whose state resumes a run.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers from ``low`` to ``high``, float32."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of mean 0 and deviation 1, float32."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def choice(self, options: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below ``options``, int64."""
        return torch.randint(options, shape, generator=self.generator, device=self.device)

    def chance(self, part: float, *shape: int) -> Tensor:
        """True for about this part of the places."""
        return self.uniform(0, 1, *shape) < part

    def sign(self, *shape: int) -> Tensor:
        """1 or -1, float32."""
        return 1.0 - 2.0 * self.choice(2, *shape)
