"""Pictures of a moment of a video, and a player of it, for pages that load nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
import os
import urllib.parse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmae_embed.decode import Picture, check_unchanged, decode_clips
from vmae_embed.sampling import Sampling, plan_spans

# Twelve pictures of 160 pixels show a motion in about 60 kB.
FRAMES = 12
_WIDTH = 160
_QUALITY = 75

# What browsers play. Others are shown by their strips alone.
_PLAYABLE = {".mp4", ".m4v", ".mov", ".webm", ".ogv"}


def player(path: str, start_s: float, end_s: float, folder: Path) -> str:
    """Return a player of a moment, or nothing where browsers play no such file; linked relative to ``folder``."""
    if Path(path).suffix.lower() not in _PLAYABLE:
        return ""
    inside = Path(path).resolve().is_relative_to(folder)
    address = (
        urllib.parse.quote(Path(os.path.relpath(Path(path).resolve(), folder)).as_posix())
        if inside
        else Path(path).as_uri()
    )
    source = html.escape(f"{address}#t={start_s:.3f},{end_s:.3f}", quote=True)
    return f"<details><summary>play</summary><video controls muted preload='none' src='{source}'></video></details>"


@dataclass(frozen=True, slots=True)
class Sprite:
    """Pictures of a clip side by side: a data URI, and the size of one picture in pixels."""

    uri: str
    width: int
    height: int


@lru_cache(maxsize=256)
def sprite_of(path: str, start_s: float, end_s: float, embedded: str) -> Sprite:
    """Make the pictures of a moment, in seconds.

    Args:
        path: of the video file.
        start_s: of the moment.
        end_s: of the moment.
        embedded: fingerprint of the file that was embedded; empty if that is not known.

    Raises:
        DecodeError: the file is gone, has changed, or cannot be decoded.
    """
    check_unchanged(path, embedded)
    (batch,) = list(
        decode_clips(
            path,
            lambda timeline: plan_spans(timeline, Sampling(frames=FRAMES, uniform=True), start_s=start_s, end_s=end_s),
            _shrink,
        )
    )[-1:]
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(batch.frames), axis=1)).save(buffer, "JPEG", quality=_QUALITY)
    height, width = batch.frames.shape[1:3]
    return Sprite("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), width, height)


def _shrink(picture: Picture) -> NDArray[np.uint8]:
    from PIL import Image

    frame = picture.rgb()
    height, width = frame.shape[:2]
    # A strip of a picture would make a page-high row.
    size = (_WIDTH, min(max(round(_WIDTH * height / width), 20), 3 * _WIDTH))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
