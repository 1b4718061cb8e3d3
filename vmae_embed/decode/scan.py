"""Reading a stream's own timestamps, without decoding it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vmae_embed.errors import DecodeError, TimelineMismatch
from vmae_embed.records import Timeline

# FFmpeg prints its opinion of every damaged file to stderr; ours is in the failure row.
av.logging.set_level(None)

# Formats that name other files or hosts to read: a file in a library must not reach beyond itself.
_REDIRECTING = {"hls", "dash", "concat", "sdp", "rtsp", "imf", "webm_dash_manifest"}

# Matroska states its duration; a file cut short by more than this is reported, not passed off as whole.
_DURATION_SLACK_S = 0.5


@dataclass(frozen=True)
class Scan:
    """A stream's frames as its packets announce them.

    Attributes:
        timeline: presentation times in seconds.
        pts: ``(F,)`` int64, the same in the stream's time base.
        keyframes: indices of the frames from which decoding can start.
    """

    timeline: Timeline
    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]


@contextmanager
def open_stream(path: str, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream.

    Raises:
        DecodeError: it is not a video, or nothing here decodes it.
    """
    try:
        # Only local files: what a damaged or hostile file refers to is not fetched.
        container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
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
            stream.thread_type = "AUTO" if threads != 1 else "NONE"  # type: ignore[assignment]
        except (av.FFmpegError, RuntimeError, AttributeError):
            raise DecodeError("no decoder for its codec", stage="open") from None
        yield container, stream


def scan(path: str, *, by_decoding: bool = False) -> Scan:
    """Read when each frame of a video is shown.

    Args:
        path: of the file.
        by_decoding: decode everything to learn it. Slow; needed where packets and frames do not
            correspond one to one.

    Raises:
        DecodeError: it is not a video, is cut short, or is damaged.
    """
    with open_stream(path, threads=1) as (container, stream):
        try:
            first, pts, keys, last_duration = (_from_frames if by_decoding else _from_packets)(container, stream)
        except (av.FFmpegError, IndexError) as error:
            # PyAV's demuxer raises IndexError when a stream appears in the middle of a file.
            raise DecodeError(f"cannot be read through: {describe(error)}", stage="timeline") from error
        return _assemble(container, stream, first, pts, keys, last_duration)


def _assemble(
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    pts: list[int],
    keys: list[int],
    last_duration: int,
) -> Scan:
    base = stream.time_base
    if base is None:
        raise DecodeError("the stream has no time base", stage="timeline")
    unique = np.unique(np.array(pts, dtype=np.int64))
    # Players put zero at the container's start; a negative start is audio priming, which they cut.
    zero_s = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
    zero = min(zero_s / base, Fraction(int(unique[0])))
    times = (unique - float(zero)) * float(base)
    steps = np.diff(times)
    if last_duration > 0:
        last_s = last_duration * float(base)
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
    return Scan(timeline, unique, np.searchsorted(unique, np.unique(np.array(keys, dtype=np.int64))))


def _from_packets(
    container: InputContainer, stream: VideoStream
) -> tuple[VideoFrame, list[int], list[int], int]:
    first: VideoFrame | None = None
    pts: list[int] = []
    keys: list[int] = []
    last, last_duration, packets, end_s = -1, 0, 0, 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index or not packet.size:
            continue
        packets += 1
        if packet.is_corrupt:
            at = "" if packet.pts is None else f" near {float(packet.pts * stream.time_base):.3f} s"
            raise DecodeError(f"cut short or damaged{at}", stage="timeline")
        if first is None and (keys or packet.is_keyframe):
            first = next(iter(packet.decode()), None)  # type: ignore[assignment]
        if packet.pts is None:
            raise TimelineMismatch("packets without presentation times", stage="timeline")
        # Until the first keyframe there is nothing to decode from; edit lists discard what they cut.
        if packet.is_discard or not (keys or packet.is_keyframe):
            if packet.is_keyframe:
                keys.append(packet.pts)
            continue
        if packet.is_keyframe:
            keys.append(packet.pts)
        pts.append(packet.pts)
        if packet.pts >= last:
            last, last_duration = packet.pts, packet.duration or 0
    if first is None:
        first = next(iter(stream.decode(None)), None)
    if first is None or not pts:
        raise DecodeError("no frame of it can be decoded", stage="timeline")
    _refuse_cut_short(container, stream, packets, end_s)
    # Leading frames of an open first group refer to pictures before the file begins.
    shown = [value for value in pts if value >= keys[0]] if keys[0] in pts else pts
    return first, shown, keys, last_duration


def _from_frames(container: InputContainer, stream: VideoStream) -> tuple[VideoFrame, list[int], list[int], int]:
    first: VideoFrame | None = None
    pts: list[int] = []
    for frame in decode_all(container, stream):
        first = first or frame
        if frame.pts is None:
            raise DecodeError("frames without presentation times", stage="timeline")
        pts.append(frame.pts)
    if first is None:
        raise DecodeError("no frame of it can be decoded", stage="timeline")
    return first, pts, [], 0


def _refuse_cut_short(container: InputContainer, stream: VideoStream, packets: int, end_s: float) -> None:
    names = container.format.name.split(",")
    if "mov" in names and packets < stream.frames:
        raise DecodeError(f"cut short: {packets} of {stream.frames} frames are there", stage="timeline")
    if "matroska" in names and container.duration is not None:
        promised_s = container.duration / av.time_base
        if end_s < promised_s - _DURATION_SLACK_S:
            raise DecodeError(f"cut short: {end_s:.1f} of {promised_s:.1f} s are there", stage="timeline")


def decode_all(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode from where the container stands to its end.

    Packets of no data are skipped: Ogg marks repeated frames by them, FFmpeg takes them for the end.
    So are those before the first keyframe: a recording that starts mid-way has nothing they build on.
    """
    started = False
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        if packet.size and started:
            yield from packet.decode()  # type: ignore[misc]
    yield from stream.decode(None)


def describe(error: BaseException) -> str:
    """Say what FFmpeg said, in one line without the path."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
