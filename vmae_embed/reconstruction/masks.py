"""Which patches are hidden: tubes, as VideoMAE was trained with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError


def tube_mask(grid: tuple[int, int, int], ratio: float = 0.9, seed: int = 0) -> NDArray[np.bool_]:
    """Draw patches that are hidden at all moments of a clip.

    As many as VideoMAE's own ``TubeMaskingGenerator`` hides: ``int(ratio * patches of a frame)``
    (arXiv:2203.12602, section 3.3; 176 of 196 at 0.9).

    Args:
        grid: tubelets in time, in height and in width.
        ratio: share of a frame's patches that are hidden, between 0 and 1.
        seed: of the draw, from 0 on.

    Returns:
        Of the shape of ``grid``, True where hidden.

    Raises:
        UsageError: nothing would be hidden, or nothing seen; or the seed is below 0.
    """
    if seed < 0:
        raise UsageError(f"seed={seed}: give a whole number from 0 on")
    _, rows, columns = grid
    patches = rows * columns
    hidden = int(ratio * patches) if 0 < ratio < 1 else 0
    if not hidden:
        raise UsageError(
            f"mask-ratio={ratio:g}: give a share between 0 and 1 that hides at least one of a frame's {patches} patches"
        )
    mask = np.zeros(patches, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(patches)[:hidden]] = True
    return np.broadcast_to(mask.reshape(1, rows, columns), grid).copy()
