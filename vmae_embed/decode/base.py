"""What every decoding backend does, and how frames become clips.

A backend opens one file and hands over the frames that are asked for, each exactly as often
as asked, in order of time, or raises. It never substitutes a neighbouring or damaged frame.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import DecodeError
from vmae_embed.records import ClipSpan, FrameBatch, Timeline

Frame = NDArray[np.uint8]
Transform = Callable[[Frame], Frame]


class Reader(Protocol):
    """One open video.

    Attributes:
        timeline: when each frame is shown.
    """

    timeline: Timeline

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode frames in one pass.

        Args:
            indices: into ``timeline.times_s``, strictly ascending.

        Yields:
            ``(H, W, 3)`` uint8 RGB for each index: rotation applied, pixels as stored
            (a pixel aspect ratio other than 1 is not applied, as in VideoMAE's own training).

        Raises:
            TimelineMismatch: the decoder has no frame with the promised time.
            DecodeError: the data are damaged.
        """
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


def read_clips(reader: Reader, spans: Iterable[ClipSpan], transform: Transform) -> Iterator[FrameBatch]:
    """Decode clips in one pass over a video, however they overlap.

    Args:
        reader: an open video.
        spans: clips in order of their first frames.
        transform: applied once to each decoded frame, before it is kept.

    Yields:
        One batch a clip, in the order given.

    Raises:
        DecodeError: as `Reader.frames` does, or frames of a clip differ in size.
    """
    to_decode, to_collect = itertools.tee(spans)
    decoded = _decode_each_once(reader, to_decode)
    held: dict[int, Frame] = {}
    for span in to_collect:
        for index in [index for index in held if index < span.frames[0]]:
            del held[index]
        while span.frames[-1] not in held:
            index, frame = next(decoded)
            held[index] = transform(frame)
        frames = [held[index] for index in span.frames]
        if len({frame.shape for frame in frames}) > 1:
            raise DecodeError(f"the picture changes size near {span.start_s:.3f} s", stage="decode")
        yield FrameBatch(span, np.stack(frames), reader.timeline.times_s[list(span.frames)])


def _decode_each_once(reader: Reader, spans: Iterable[ClipSpan]) -> Iterator[tuple[int, Frame]]:
    to_decode, to_name = itertools.tee(_ascending(spans))
    return zip(to_name, reader.frames(to_decode), strict=True)


def _ascending(spans: Iterable[ClipSpan]) -> Iterator[int]:
    """Every frame that some span wants, once, in order, looking no further ahead than it must."""
    waiting: list[int] = []
    last = -1
    for span in itertools.chain(spans, [None]):
        while waiting and (span is None or waiting[0] < span.frames[0]):
            index = heapq.heappop(waiting)
            if index > last:
                yield (last := index)
        if span is not None:
            for index in set(span.frames):
                heapq.heappush(waiting, index)
