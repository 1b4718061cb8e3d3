"""The decord backend, for those who want decord's own frames.

decord counts frames where we need their times, so it is trusted only as far as its frames agree
one to one with the stream's timestamps, read by `vmae_embed.decode.scan`. It refuses the rest:
edit lists, packets that show nothing, timestamps in disorder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vmae_embed.decode.base import Frame
from vmae_embed.decode.scan import scan
from vmae_embed.errors import DecodeError, DecoderRefused
from vmae_embed.preprocess import Preprocessing

# decord keeps times as float32: at two hours one step is half a millisecond.
_AGREEMENT_S = 0.002


class DecordPicture:
    """A decoded frame, which decord hands over whole. See `vmae_embed.decode.base.Picture`."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def rgb(self) -> Frame:
        """Return the whole picture."""
        return self._frame

    def cropped(self, preprocessing: Preprocessing) -> Frame:
        """Return it resized and cropped, by Pillow."""
        return preprocessing(self._frame)


class DecordReader:
    """Decode with decord. See `vmae_embed.decode.base.Reader`."""

    def __init__(self, path: str, *, threads: int = 1, by_decoding: bool = False) -> None:
        import decord

        if by_decoding:
            raise DecoderRefused("packets and frames do not correspond; decord cannot tell which", stage="open")
        scanned = scan(path)
        if scanned.is_hdr:
            raise DecoderRefused("it is HDR, which decord gives as it is stored", stage="open")
        self.timeline = scanned.timeline
        self._path, self._threads = path, threads
        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = self._open()
            times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
            shape = reader.next().asnumpy().shape
        except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError) as error:
            raise DecoderRefused(f"decord cannot read it: {_last_line(error)}", stage="open") from error
        # Widths that are not a multiple of its alignment come out in odd shapes, or not at all.
        if shape != (self.timeline.height, self.timeline.width, 3):
            raise DecoderRefused(f"decord gives frames of shape {shape}", stage="open")
        ours = self.timeline.times_s
        if len(times) != len(ours):
            raise DecoderRefused(f"decord counts {len(times)} frames, the stream {len(ours)}", stage="open")
        # decord puts zero at the first frame.
        apart = float(np.abs((times - times[0]) - (ours - ours[0])).max())
        if apart > _AGREEMENT_S:
            raise DecoderRefused(f"decord's times differ from the stream's by up to {apart:.3f} s", stage="open")

    def frames(self, indices: Iterable[int]) -> Iterator[DecordPicture]:
        """Decode frames in one pass, one after the other.

        decord's own seeks and skips miscount in open groups, in fragments and in TS.
        """
        import decord

        reader, place = self._open(), 0
        for index in indices:
            try:
                for _ in range(place, index):
                    reader.next()
                frame: Frame = reader.next().asnumpy()
            except (decord.DECORDLimitReachedError, StopIteration) as error:
                raise DecoderRefused(f"decord lost frames: {_last_line(error)}", stage="decode") from error
            except (decord.DECORDError, RuntimeError) as error:
                at = self.timeline.times_s[index]
                raise DecodeError(f"damaged before {at:.3f} s: {_last_line(error)}", stage="decode") from error
            place = index + 1
            yield DecordPicture(frame)

    def _open(self) -> Any:
        import decord

        # The smallest tolerance that decord takes as one: no frame may stand in for a damaged one.
        return decord.VideoReader(self._path, num_threads=self._threads, fault_tol=1e-6)

    def close(self) -> None:
        """Nothing stays open between calls of `frames`."""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][-160:] if lines else type(error).__name__
