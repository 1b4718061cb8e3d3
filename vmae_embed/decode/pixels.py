"""From FFmpeg's frames to RGB: whole and exact, or only as large as the encoder sees them.

Colour is as the stream says: its matrix (BT.601, BT.709, BT.2020, SMPTE 240M, FCC) and its range.
What says nothing is taken as BT.601 in limited range, whatever its size: so do FFmpeg and decord,
with which VideoMAE's training data were read (players would take BT.709 for HD). PQ and HLG
become SDR (`vmae_embed.decode.colour`). Alpha is dropped: pixels keep the colour they are stored with.
Interlaced frames stay woven.
"""

from __future__ import annotations

import av
import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from vmae_embed.decode.base import Frame
from vmae_embed.decode.colour import is_hdr, to_sdr
from vmae_embed.decode.scan import describe
from vmae_embed.errors import DecodeError
from vmae_embed.preprocess import BILINEAR, Preprocessing

# As ITU-T H.273 (table 4) and FFmpeg's AVColorSpace number it. It says nothing, and swscale refuses it.
_RESERVED_MATRIX = 3

# swscale turns small 4:2:2 into RGB in half the time that scaling into RGB takes. Where frames are
# shrunk by this or more, their colour planes are finer than those of the small 4:2:2, and show it.
_MUCH_SHRUNK = 1.5

# Below this many pixels a side, chroma planes are so small that filters reach past their ends.
_SMALLEST_SHRUNK = 32


class Converter:
    """Converts the frames of one video; swscale keeps its filters from one frame to the next."""

    def __init__(self) -> None:
        self._scaling, self._colouring = VideoReformatter(), VideoReformatter()

    def rgb(self, frame: VideoFrame, height: int, width: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Convert a frame as stored, resizing it if it has another size.

        Resizing is bilinear, and antialiased when shrinking, as Pillow's: swscale widens the
        filter by the ratio.

        Returns:
            ``(height, width, 3)`` RGB: uint8, or uint16 if the frame is HDR.

        Raises:
            DecodeError: its colours are of a kind that swscale does not know.
        """
        try:
            if is_hdr(frame.color_trc):
                return self._reformat(self._scaling, frame, height, width, "rgb48le").to_ndarray()  # type: ignore[return-value]
            if (height, width) == (frame.height, frame.width):
                resized = frame
            elif frame.height < _MUCH_SHRUNK * height and _is_subsampled(frame.sw_format or frame.format):
                resized = self._reformat(self._scaling, frame, height, width, "yuv422p")
            else:
                return self._reformat(self._scaling, frame, height, width, "gbrp").to_ndarray()  # type: ignore[return-value]
            return self._reformat(self._colouring, resized, height, width, "rgb24").to_ndarray()  # type: ignore[return-value]
        except (av.FFmpegError, OSError) as error:
            kind = f"{frame.format.name}, colour matrix {frame.colorspace}"
            raise DecodeError(f"cannot be converted to RGB ({kind}): {describe(error)}", stage="decode") from error

    def _reformat(
        self, reformatter: VideoReformatter, frame: VideoFrame, height: int, width: int, pixel_format: str
    ) -> VideoFrame:
        matrix = Colorspace.ITU601 if frame.colorspace == _RESERVED_MATRIX else None
        # One thread: workers share out the processors among videos.
        return reformatter.reformat(
            frame,
            width,
            height,
            pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )


class PyAVPicture:
    """A decoded frame. See `vmae_embed.decode.base.Picture`."""

    def __init__(self, frame: VideoFrame, converter: Converter) -> None:
        self._frame, self._converter = frame, converter
        # FFmpeg gives counter-clockwise degrees, as NumPy turns.
        self._quarter_turns = round(frame.rotation / 90) % 4

    def rgb(self) -> Frame:
        """Return the whole picture."""
        return np.ascontiguousarray(self._finish(self._upright(self._frame.height, self._frame.width)))

    def cropped(self, preprocessing: Preprocessing) -> Frame:
        """Return what `Preprocessing` makes of the picture, within a few grey levels, without all of its RGB."""
        is_turned = self._quarter_turns % 2 == 1
        height, width = self._frame.height, self._frame.width
        resized = preprocessing.resized(*((width, height) if is_turned else (height, width)))
        crop_height, crop_width = preprocessing.crop
        if (
            preprocessing.resample != BILINEAR
            or min(height, width) < _SMALLEST_SHRUNK
            or resized[0] < crop_height
            or resized[1] < crop_width
            # Strips: the whole would be blown up to many times what the crop keeps.
            or resized[0] * resized[1] > max(height * width, 4 * crop_height * crop_width)
        ):
            return preprocessing(self.rgb())
        pixels = self._upright(*(resized[::-1] if is_turned else resized))
        top, left = preprocessing.corner(*resized)
        return self._finish(pixels[top : top + crop_height, left : left + crop_width])

    def _upright(self, height: int, width: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        pixels = self._converter.rgb(self._frame, height, width)
        return np.rot90(pixels, self._quarter_turns)

    def _finish(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Frame:
        if pixels.dtype == np.uint16:
            return to_sdr(pixels.astype(np.uint16, copy=False), self._frame.color_trc)
        return pixels.astype(np.uint8, copy=False)


def _is_subsampled(pixel_format: VideoFormat) -> bool:
    return not pixel_format.is_rgb and len(pixel_format.components) >= 3 and pixel_format.chroma_width(64) < 64
