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
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, FrameBatch, Timeline

Frame = NDArray[np.uint8]


class Picture(Protocol):
    """One decoded frame, not yet converted: take from it what is needed, before the next one is asked for."""

    def rgb(self) -> Frame:
        """Return the whole picture.

        Returns:
            ``(H, W, 3)`` uint8 RGB: rotation applied, colour as the stream describes it, pixels as
            stored (a pixel aspect ratio other than 1 is not applied, as in VideoMAE's own training).
        """
        ...

    def cropped(self, preprocessing: Preprocessing) -> Frame:
        """Return the picture resized and cropped, as cheaply as the backend can.

        Returns:
            ``(crop height, crop width, 3)`` uint8: ``preprocessing(self.rgb())``, give or take a
            few grey levels.
        """
        ...


Transform = Callable[[Picture], Frame]
Stack = Callable[[list[Frame]], NDArray[np.uint8]]


class Reader(Protocol):
    """One open video.

    Attributes:
        timeline: when each frame is shown.
    """

    timeline: Timeline

    def frames(self, indices: Iterable[int]) -> Iterator[Picture]:
        """Decode frames in one pass.

        Args:
            indices: into ``timeline.times_s``, strictly ascending.

        Yields:
            The picture of each index.

        Raises:
            TimelineMismatch: the decoder has no frame with the promised time.
            DecodeError: the data are damaged.
        """
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


def read_clips(
    reader: Reader, spans: Iterable[ClipSpan], transform: Transform, stack: Stack = np.stack
) -> Iterator[FrameBatch]:
    """Decode clips in one pass over a video, however they overlap.

    Args:
        reader: an open video.
        spans: clips in order of their first frames.
        transform: what is kept of a picture; called once for each that is decoded.
        stack: makes a clip's T frames one array, by copying them to where they belong.

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
            index, picture = next(decoded)
            held[index] = transform(picture)
        frames = [held[index] for index in span.frames]
        if len({frame.shape for frame in frames}) > 1:
            raise DecodeError(f"the picture changes size near {span.start_s:.3f} s", stage="decode")
        yield FrameBatch(span, stack(frames), reader.timeline.times_s[list(span.frames)])


def _decode_each_once(reader: Reader, spans: Iterable[ClipSpan]) -> Iterator[tuple[int, Picture]]:
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
