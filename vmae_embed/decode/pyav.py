"""The PyAV backend: exact to the presentation timestamp, on every format FFmpeg reads."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vmae_embed.decode.pixels import Converter, PyAVPicture
from vmae_embed.decode.scan import decode_all, describe, open_stream, rewind, scan_stream
from vmae_embed.errors import DecodeError, TimelineMismatch

# A seek costs an index look-up and a flush; below this many frames decoding on is cheaper.
_SEEK_BEYOND_FRAMES = 32

# Decoders that leave out frames that no other is built on, and nothing else, when told to skip
# NONREF: by nal_ref_idc, or because they are B-frames, or because they refresh no reference.
# VP9's takes no notice, and AV1's (dav1d) none after it was opened.
_FIELD_CODECS = {"h264", "mpeg2video"}
_FRAME_CODECS = {"mpeg1video", "mpeg4", "vp8"}

# FFmpeg's AV_FIELD_PROGRESSIVE.
_PROGRESSIVE = 1


class PyAVReader:
    """Decode with PyAV (FFmpeg), on the CPU or as ``hwaccel`` says. See `vmae_embed.decode.base.Reader`."""

    def __init__(
        self, path: str, *, threads: int = 1, by_decoding: bool = False, hwaccel: HWAccel | None = None
    ) -> None:
        self._hwaccel = hwaccel
        self._path, self._threads, self._by_decoding = path, threads, by_decoding
        with ExitStack() as stack:
            opened = stack.enter_context(open_stream(path, threads, hwaccel))
            self._scan = scan_stream(path, *opened, by_decoding=by_decoding)
            self._stack = stack.pop_all()
        self._scanned: tuple[InputContainer, VideoStream] | None = opened
        self.timeline = self._scan.timeline

    def frames(self, indices: Iterable[int]) -> Iterator[PyAVPicture]:
        """Decode frames in one pass, skipping by keyframes where nothing is wanted."""
        scanned = self._scan
        converter = Converter()
        with self._at_start() as (container, stream):
            wanted = None
            # Several threads decode packets at once, and a GPU in its own time: neither is known to be exact.
            if self._threads == 1 and self._hwaccel is None and not self._by_decoding and _can_skip(stream):
                indices, to_look_up = itertools.tee(indices)
                wanted = _Wanted(int(scanned.pts[index]) for index in to_look_up)
            decoding = _Decoding(container, stream, wanted, by_order=scanned.by_order)
            next_index, may_seek = 0, True
            for index in indices:
                target = index if scanned.by_order else int(scanned.pts[index])
                keyframe = self._keyframe_before(index)
                if may_seek and keyframe is not None and keyframe - next_index > _SEEK_BEYOND_FRAMES:
                    decoding.seek(int(scanned.pts[keyframe]))
                frame = decoding.frame_at(target)
                if frame is None and decoding.has_seeked:
                    # The seek led past the frame, or to where none can be decoded: start from the start,
                    # and seek no more, or every clip would.
                    may_seek = False
                    decoding.seek(None)
                    frame = decoding.frame_at(target)
                at = f"{self.timeline.times_s[index]:.3f} s"
                if frame is None:
                    raise TimelineMismatch(f"no frame at {at}, where a packet promised one", stage="decode")
                if wanted is not None and frame.interlaced_frame:
                    # Half of it may have come in a packet of another time, and been skipped.
                    raise TimelineMismatch(f"interlaced at {at}, after a start that was not", stage="decode")
                yield PyAVPicture(frame, converter)
                if wanted is not None:
                    wanted.forget(target)
                next_index = index + 1

    def _keyframe_before(self, index: int) -> int | None:
        place = int(np.searchsorted(self._scan.keyframes, index, side="right")) - 1
        return int(self._scan.keyframes[place]) if place >= 0 else None

    @contextmanager
    def _at_start(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        scanned, self._scanned = self._scanned, None
        # The pass that goes on with the scanned file closes it: FFmpeg must not lose it half-way.
        with self._stack.pop_all() as stack:
            if scanned is not None and not self._by_decoding and rewind(*scanned, self._scan):
                yield scanned
            else:
                stack.close()
                yield stack.enter_context(open_stream(self._path, self._threads, self._hwaccel))

    def close(self) -> None:
        """Close the file, unless a call of `frames` goes on reading it: that closes it at its own end."""
        self._scanned = None
        self._stack.close()


class _Decoding:
    """A decoder that goes forward to the frame with a given stamp: its pts, or its place in order."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, wanted: _Wanted | None, *, by_order: bool
    ) -> None:
        self._container, self._stream, self._wanted, self._by_order = container, stream, wanted, by_order
        self.has_seeked = False
        self._restart()

    def _restart(self) -> None:
        self._frames = decode_all(self._container, self._stream, self._wanted)
        self._current: VideoFrame | None = None
        self._stamp = -1 if self._by_order else -sys.maxsize
        self._is_first_after_seek = False

    def seek(self, pts: int | None) -> None:
        """Go to the keyframe at ``pts``, or to the start."""
        self.has_seeked = pts is not None
        start = self._stream.start_time or 0
        try:
            self._container.seek(start if pts is None else pts, stream=self._stream, backward=True)
        except av.FFmpegError as error:
            raise DecodeError(f"cannot seek: {describe(error)}", stage="decode") from error
        self._stream.codec_context.flush_buffers()
        self._restart()
        self._is_first_after_seek = self.has_seeked

    def frame_at(self, stamp: int) -> VideoFrame | None:
        """Decode up to a stamp; None when the decoder goes past it.

        Raises:
            TimelineMismatch: the decoder's timestamps are in disorder.
            DecodeError: the data are damaged.
        """
        while self._stamp < stamp:
            try:
                self._current = next(self._frames, None)
            except av.FFmpegError as error:
                raise DecodeError(f"damaged: {describe(error)}", stage="decode") from error
            if self._current is None:
                return None
            if self._is_first_after_seek:
                self._is_first_after_seek = False
                # Intra-refresh streams mark places to join as keyframes, from where pictures heal slowly.
                if not self._current.key_frame:
                    return None
            if self._current.is_corrupt:
                time_s = self._current.time
                at = f" stamped {time_s:.3f} s" if time_s is not None and math.isfinite(time_s) else ""
                raise DecodeError(f"the frame{at} is damaged", stage="decode")
            if self._by_order:
                self._stamp += 1
            elif self._current.pts is not None:
                if self._current.pts < self._stamp:
                    raise TimelineMismatch("frames come out of order", stage="decode")
                self._stamp = self._current.pts
        return self._current if self._stamp == stamp else None


class _Wanted:
    """Tells whether a pts is wanted, looking ahead in the wanted ones just as far as it must."""

    def __init__(self, ascending: Iterator[int]) -> None:
        self._ascending = ascending
        self._known: set[int] = set()
        self._last = -sys.maxsize

    def __call__(self, pts: int) -> bool:
        while self._last < pts:
            self._last = next(self._ascending, sys.maxsize)
            self._known.add(self._last)
        return pts in self._known

    def forget(self, pts: int) -> None:
        """Wanted no more."""
        self._known.discard(pts)


def _can_skip(stream: VideoStream) -> bool:
    """Tell whether FFmpeg can leave out frames of a stream without a bit of the others changing."""
    codec = stream.codec_context
    if codec.name == "hevc":
        # Frames that none of their own temporal layer is built on may carry those of a higher one.
        return _hevc_temporal_layers(codec.extradata) == 1
    if codec.name in _FIELD_CODECS:
        # The two fields of a frame may come in packets of their own.
        return codec.field_order == _PROGRESSIVE
    return codec.name in _FRAME_CODECS


def _hevc_temporal_layers(extradata: bytes | None) -> int:
    """Read numTemporalLayers from an hvcC box (ISO 14496-15, 8.3.3.1); 0 if it is not told, as in TS."""
    if not extradata or len(extradata) < 23 or extradata[0] != 1:
        return 0
    return extradata[21] >> 3 & 7
