"""A picture of a reconstruction: some frames of the clip, what was seen of them, what was made of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.pages import check_page
from vmae_embed.reconstruction.model import Reconstruction

if TYPE_CHECKING:
    from PIL.Image import Image

# Frames across, and pixels that one is wide at least: smaller ones are enlarged by whole numbers.
_FRAMES = 8
_WIDTH = 160
_GAP = 4
_MARGIN = 16
_LABELS = 116
_LINE = 24
_TEXT = 15
_INK, _PALE, _PAPER = (24, 24, 24), (110, 110, 110), (255, 255, 255)
_HIDDEN = 200


def check_picture(path: str | Path, *, overwrite: bool) -> Path:
    """Say what is wrong with a picture's name, before anything takes its time.

    Raises:
        UsageError: it is no ``.png``, exists, or its directory does not.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{path}: give a name that ends in .png")
    return check_page(path, overwrite=overwrite)


def write_picture(
    path: Path, made: Reconstruction, times_s: NDArray[np.float64], *, title: str = "", notes: str = ""
) -> Path:
    """Write three rows of frames: original, masked, reconstructed.

    Args:
        path: of the PNG; see `check_picture`.
        made: what is shown.
        times_s: ``(T,)``, presentation time of each frame in seconds.
        title: a line above.
        notes: a line below.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        draw(made, times_s, title=title, notes=notes).save(path, "PNG")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def draw(made: Reconstruction, times_s: NDArray[np.float64], *, title: str = "", notes: str = "") -> Image:
    """Draw what `write_picture` writes."""
    from PIL import Image, ImageDraw, ImageFont

    count = len(made.original)
    shown = range(0, count, math.ceil(count / _FRAMES))
    height, width = made.original.shape[1:3]
    enlarged = math.ceil(_WIDTH / width)
    across, down = width * enlarged + _GAP, height * enlarged + _GAP
    rows = {"original": made.original, "masked": masked(made), "reconstructed": made.reconstructed}
    size = (_MARGIN + _LABELS + across * len(shown) + _MARGIN, _MARGIN + 3 * _LINE + down * len(rows) + _MARGIN)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(_TEXT)
    pen.text((_MARGIN, _MARGIN), title, _INK, font)
    for column, frame in enumerate(shown):
        left = _MARGIN + _LABELS + column * across
        pen.text((left, _MARGIN + _LINE), f"{times_s[frame]:.2f} s", _PALE, font)
        for row, clip in enumerate(rows.values()):
            picture = Image.fromarray(clip[frame].repeat(enlarged, 0).repeat(enlarged, 1))
            image.paste(picture, (left, _MARGIN + 2 * _LINE + row * down))
    for row, name in enumerate(rows):
        pen.text((_MARGIN, _MARGIN + 2 * _LINE + row * down + down // 2), name, _INK, font, anchor="lm")
    pen.text((_MARGIN, size[1] - _MARGIN), notes, _PALE, font, anchor="ls")
    return image


def masked(made: Reconstruction) -> NDArray[np.uint8]:
    """``(T, H, W, 3)`` uint8, the original with its hidden patches in grey."""
    hidden = made.mask
    for axis in range(3):
        hidden = hidden.repeat(made.original.shape[axis] // made.mask.shape[axis], axis)
    return np.where(hidden[..., None], np.uint8(_HIDDEN), made.original)
