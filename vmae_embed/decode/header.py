"""What a file's header says, for estimates: nothing here is good enough to cut clips by."""

from __future__ import annotations

import os

import av
import numpy as np

from vmae_embed.decode.scan import open_stream
from vmae_embed.records import Timeline

# Damaged headers claim any length: a frame takes a byte or more, and 20 million are a week at 30 a second.
_LEAST_BYTES_A_FRAME = 1
_MOST_FRAMES = 20_000_000


def read_header(path: str) -> Timeline | None:
    """Guess a video's timeline without reading the file through: evenly spaced frames from 0 on.

    Returns:
        The timeline; None where the header tells no length or rate, or more than the file can hold.

    Raises:
        DecodeError: it is not a video.
    """
    with open_stream(path, threads=1) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / av.time_base
        if not 0 < seconds * rate <= min(_MOST_FRAMES, os.stat(path).st_size / _LEAST_BYTES_A_FRAME):
            return None
        times_s = np.arange(max(round(seconds * rate), 1)) / rate
        codec = stream.codec_context
        return Timeline(times_s, seconds, rate, codec.width, codec.height, codec.name)
