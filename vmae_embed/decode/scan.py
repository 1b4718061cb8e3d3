"""Reading a stream's own timestamps, without decoding it."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vmae_embed.decode.colour import is_hdr
from vmae_embed.errors import DecodeError, TimelineMismatch
from vmae_embed.records import Timeline

# FFmpeg prints its opinion of every damaged file to stderr; ours is in the failure row.
av.logging.set_level(None)

# Formats that name other files or hosts to read: a file in a library must not reach beyond itself.
_REDIRECTING = {"hls", "dash", "concat", "sdp", "rtsp", "imf", "webm_dash_manifest"}

# Formats with an index, in which going back to the start is not a search.
_REWINDABLE = {"mov", "matroska"}

# Matroska states its duration; a file cut short by more than this is reported, not passed off as whole.
_DURATION_SLACK_S = 0.5

# Of a stream's frames, so many must have a time of their own. A few repeat one where recordings were joined.
_DISTINCT_TIMES = 0.9


@dataclass(frozen=True)
class Scan:
    """A stream's frames as its packets announce them.

    Attributes:
        timeline: presentation times in seconds.
        pts: ``(F,)`` int64, the same in the stream's time base.
        keyframes: indices of the frames from which decoding can start.
        by_order: the decoder's timestamps are in disorder (H.264 with B-frames in AVI): its n-th
            frame is the n-th shown, whatever it is stamped.
        is_hdr: its first frame is PQ or HLG.
        first_dts: of the first packet, in the stream's time base, if it is known.
    """

    timeline: Timeline
    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    by_order: bool
    is_hdr: bool
    first_dts: int | None


@contextmanager
def open_stream(
    path: str, threads: int, hwaccel: HWAccel | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream, to be decoded by the CPU or by what is given.

    Raises:
        DecodeError: it is not a video, or nothing here decodes it.
    """
    try:
        # Only local files: what a damaged or hostile file refers to is not fetched.
        container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace", hwaccel=hwaccel)
    except FileNotFoundError:
        raise DecodeError("the file has vanished", stage="open") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(f"not a readable video: {describe(error)}", stage="open") from error
    with container:
        names = set(container.format.name.split(","))
        if names & _REDIRECTING:
            raise DecodeError(f"a {container.format.name} playlist, not a video", stage="open")
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise DecodeError("a still image, not a video", stage="open")
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
            raise DecodeError("no video stream", stage="open")
        try:
            stream.thread_count = threads
            stream.thread_type = "AUTO" if threads != 1 else "NONE"
        except (av.FFmpegError, RuntimeError, AttributeError):
            raise DecodeError("no decoder for its codec", stage="open") from None
        yield container, stream


def scan(path: str) -> Scan:
    """Read when each frame of a video is shown; see `scan_stream`."""
    with open_stream(path, threads=1) as (container, stream):
        return scan_stream(path, container, stream)


def scan_stream(path: str, container: InputContainer, stream: VideoStream, *, by_decoding: bool = False) -> Scan:
    """Read when each frame of a video is shown.

    Args:
        path: of the file.
        container: the open file, not yet read from; it is left at its end.
        stream: of the container.
        by_decoding: decode everything to learn it. Slow; needed where packets and frames do not
            correspond one to one.

    Raises:
        DecodeError: it is not a video, is cut short, or is damaged.
    """
    try:
        found = (_from_frames if by_decoding else _from_packets)(container, stream)
    except (av.FFmpegError, IndexError) as error:
        # PyAV's demuxer raises IndexError when a stream appears in the middle of a file.
        raise DecodeError(f"cannot be read through: {describe(error)}", stage="timeline") from error
    _refuse_cut_short(path, container, stream, found.end_s)
    return _assemble(container, stream, found, by_order=by_decoding and len(np.unique(found.pts)) == len(found.pts))


def rewind(container: InputContainer, stream: VideoStream, scanned: Scan) -> bool:
    """Go back to the start of a scanned file, where its container can be trusted to find it.

    Opening it anew costs as much as decoding some dozen frames.

    Returns:
        Whether it stands there: the next packet is again the first one, and the decoder knows nothing.
    """
    if scanned.first_dts is None or not _REWINDABLE & set(container.format.name.split(",")):
        return False
    try:
        container.seek(scanned.first_dts, stream=stream, backward=True)
        packet = next(iter(container.demux(stream)), None)
        if packet is None or packet.dts != scanned.first_dts:
            return False
        container.seek(scanned.first_dts, stream=stream, backward=True)
    except av.FFmpegError:
        return False
    stream.codec_context.flush_buffers()
    return True


@dataclass
class _Found:
    """What a pass over a file found, in the stream's time base.

    Attributes:
        first: frame that could be decoded.
        first_dts: of the first packet.
        pts: of the frames, in the order of decoding.
        keys: pts of the keyframes.
        last_duration: of the frame shown last; 0 if unknown.
        end_s: where the last packet of any stream ends, in seconds.
    """

    first: VideoFrame | None = None
    first_dts: int | None = None
    pts: array[int] = field(default_factory=lambda: array("q"))  # hours of video: a list would take five times that
    keys: list[int] = field(default_factory=list)
    last_duration: int = 0
    end_s: float = 0.0


def _assemble(container: InputContainer, stream: VideoStream, found: _Found, *, by_order: bool) -> Scan:
    first = found.first
    if first is None or not found.pts:
        raise DecodeError("no frame of it can be decoded", stage="timeline")
    base = stream.time_base
    if base is None:
        raise DecodeError("the stream has no time base", stage="timeline")
    unique = np.unique(np.array(found.pts, dtype=np.int64))
    if len(unique) < _DISTINCT_TIMES * len(found.pts):
        raise DecodeError(f"{len(found.pts)} frames share {len(unique)} timestamps", stage="timeline")
    # Players put zero at the container's start; a negative start is audio priming, which they cut.
    zero_s = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
    zero = min(zero_s / base, Fraction(int(unique[0])))
    times = ((unique - float(zero)) * float(base)).astype(np.float64)
    steps = np.diff(times)
    if found.last_duration > 0:
        last_s = found.last_duration * float(base)
    elif len(steps):
        last_s = float(np.median(steps))
    else:
        last_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
    end_s = float(times[-1]) + last_s
    turned = first.rotation % 180 != 0
    timeline = Timeline(
        times_s=times,
        end_s=end_s,
        fps=len(times) / (end_s - float(times[0])),
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        codec=stream.codec.canonical_name,
    )
    keyframes = np.searchsorted(unique, np.unique(np.array(found.keys, dtype=np.int64)))
    return Scan(timeline, unique, keyframes, by_order, is_hdr(first.color_trc), found.first_dts)


def _from_packets(container: InputContainer, stream: VideoStream) -> _Found:
    found = _Found()
    last = -sys.maxsize
    ends: dict[int, int] = {}  # by stream, in its time base: fractions would take most of the time
    for packet in container.demux():
        number, pts = packet.stream_index, packet.pts
        if pts is not None:
            ends[number] = max(ends.get(number, 0), pts + (packet.duration or 0))
        if number != stream.index or not packet.size:
            continue
        if packet.is_corrupt:
            at = "" if pts is None else f" near {float(pts * packet.time_base):.3f} s"
            raise DecodeError(f"cut short or damaged{at}", stage="timeline")
        if pts is None:
            raise TimelineMismatch("packets without presentation times", stage="timeline")
        if found.first_dts is None:
            found.first_dts = packet.dts
        if packet.is_keyframe:
            found.keys.append(pts)
        if not found.keys:
            continue  # nothing to decode it from
        if found.first is None:
            found.first = next((frame for frame in packet.decode() if isinstance(frame, VideoFrame)), None)
        # Edit lists discard what they cut. Leading frames of an open first group refer to
        # pictures from before the file begins.
        if not packet.is_discard and pts >= found.keys[0]:
            found.pts.append(pts)
            if pts > last:
                last, found.last_duration = pts, packet.duration or 0
    if found.first is None:
        found.first = next(iter(stream.decode(None)), None)
    for number, end in ends.items():
        base = container.streams[number].time_base
        found.end_s = max(found.end_s, float(end * base) if base else 0.0)
    return found


def _from_frames(container: InputContainer, stream: VideoStream) -> _Found:
    found = _Found()
    for frame in decode_all(container, stream):
        found.first = found.first or frame
        if frame.pts is None:
            raise DecodeError("frames without presentation times", stage="timeline")
        found.pts.append(frame.pts)
    found.end_s = float("inf")  # what can be decoded has been
    return found


def _refuse_cut_short(path: str, container: InputContainer, stream: VideoStream, end_s: float) -> None:
    names = container.format.name.split(",")
    if "mov" in names:
        # The sample table says where each frame lies; frames that an edit list cuts are in it too.
        needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        present = os.path.getsize(path)
        if needed > present:
            raise DecodeError(f"cut short: {present:,} of at least {needed:,} bytes are there", stage="timeline")
    if "matroska" in names and container.duration is not None:
        promised_s = container.duration / av.time_base
        if end_s < promised_s - _DURATION_SLACK_S:
            raise DecodeError(f"cut short: {end_s:.1f} of {promised_s:.1f} s are there", stage="timeline")


def decode_all(
    container: InputContainer, stream: VideoStream, is_wanted: Callable[[int], bool] | None = None
) -> Iterator[VideoFrame]:
    """Decode from where the container stands to its end.

    Packets of no data are skipped: Ogg marks repeated frames by them, FFmpeg takes them for the end.
    So are those before the first keyframe: a recording that starts mid-way has nothing they build on.

    Args:
        container: to read from.
        stream: to decode.
        is_wanted: of the packet with this pts; the others are decoded only if another frame is
            built on theirs. None decodes everything.
    """
    started = False
    codec = stream.codec_context
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        if packet.size and started:
            if is_wanted is not None:
                codec.skip_frame = "DEFAULT" if packet.pts is None or is_wanted(packet.pts) else "NONREF"
            yield from packet.decode()
    yield from stream.decode(None)


def describe(error: BaseException) -> str:
    """Say what FFmpeg said, in one line without the path."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
