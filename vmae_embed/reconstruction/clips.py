"""The clip that is asked for: a video's first or middle one, or a moment of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vmae_embed.decode import cropping, decode_clips
from vmae_embed.errors import DecodeError, UsageError
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, FrameBatch, Timeline, split_fragment
from vmae_embed.sampling import Sampling, plan_spans


@dataclass(frozen=True, slots=True)
class Chosen:
    """One clip of a video file, not yet decoded.

    Attributes:
        name: of the file, as it was given.
        path: of it, absolute.
        start_s: where the moment begins that the clip is of, in seconds; None for the start of the video.
        end_s: where it ends; None for the end of the video.
        middle: take the middle clip of the moment, not the first.
    """

    name: str
    path: str
    start_s: float | None
    end_s: float | None
    middle: bool


def choose_clip(video: str, at: str | None = None) -> Chosen:
    """Read which clip is meant.

    Args:
        video: a file (``clip.mp4``) or a moment of one (``clip.mp4#t=3``, ``clip.mp4#t=3,5``).
        at: ``first`` or ``middle``; None for the first of a moment, and the middle of a video.

    Raises:
        UsageError: there is no such file, or it is a folder.
    """
    name, start_s, end_s = (video, None, None) if os.path.isfile(video) else split_fragment(video)
    path = os.path.abspath(os.path.expanduser(name))
    if os.path.isdir(path):
        raise UsageError(f"{video}: a folder; give one video, or a moment of it")
    if not os.path.isfile(path):
        if start_s is None and "#t=" in video:
            raise UsageError(f"{video}: not a moment; write it as {video.partition('#t=')[0]}#t=3,5, in seconds")
        raise UsageError(f"{video}: no such file")
    return Chosen(name, path, start_s, end_s, middle=at == "middle" or (at is None and start_s is None))


def decode_clip(chosen: Chosen, sampling: Sampling, preprocessing: Preprocessing) -> FrameBatch:
    """Decode a clip.

    Args:
        chosen: the clip.
        sampling: how frames are taken; of its windows only the one that is asked for.
        preprocessing: of the checkpoint, which its pixels are made for exactly.

    Raises:
        DecodeError: the file cannot be decoded, or shows nothing then.
    """
    # Of a single window, evenly spread, the middle of the video is the middle.
    windows = replace(sampling, hop_s=None, clips_per_video=1 if chosen.middle and not sampling.uniform else None)

    def plan(timeline: Timeline) -> Iterator[ClipSpan]:
        yield next(plan_spans(timeline, windows, start_s=chosen.start_s, end_s=chosen.end_s))

    try:
        # The last one: a video that was begun anew gives its clip again.
        *_, batch = decode_clips(chosen.path, plan, cropping(preprocessing, exact_pixels=True), threads=0)
    except DecodeError as error:
        raise DecodeError(f"{chosen.name}: {error}", stage=error.stage) from error
    return batch
