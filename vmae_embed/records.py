"""The records that flow through the package, and the media-fragment ids that name clips.

Axis letters used here and in every docstring: B clips, T frames, C channels, H, W,
N tokens, D embedding width, K neighbours, F frames of a whole video.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# W3C Media Fragments URI 1.0, section 4.2.1: temporal dimension in normal play time.
_TIME = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d+)?"
_FRAGMENT = re.compile(rf"^(?P<video>.*)#t=(?:npt:)?(?P<start>{_TIME})?(?:,(?P<end>{_TIME}))?$", re.S)


@dataclass(frozen=True, slots=True)
class Video:
    """One video file as a source lists it.

    Attributes:
        id: path relative to the source root, in POSIX form.
        path: absolute path of the file.
        size: bytes.
        mtime_ns: modification time in nanoseconds; with ``size`` the file's fingerprint.
        columns: what the user's manifest says about it, carried into the shards.
    """

    id: str
    path: str
    size: int
    mtime_ns: int
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes when the file does, as far as the file system tells."""
        return fingerprint(self.size, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is known of a video stream before a pixel of it is decoded.

    Attributes:
        times_s: ``(F,)`` float64, presentation time of each frame in seconds, ascending.
            Zero is where players put it: at the container's start time.
        end_s: when the last frame ends, in seconds.
        fps: frames a second, on average.
        width: pixels, rotation applied (a pixel aspect ratio is not).
        height: pixels, likewise.
        codec: FFmpeg's name of the codec.
    """

    times_s: NDArray[np.float64]
    end_s: float
    fps: float
    width: int
    height: int
    codec: str

    @property
    def duration_s(self) -> float:
        """From the first frame's start to the last frame's end, in seconds."""
        return self.end_s - float(self.times_s[0])


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A span of one video and the frames sampled from it.

    Attributes:
        start_s: seconds of presentation time, included.
        end_s: seconds, excluded.
        frames: T indices into ``Timeline.times_s``; a repeated index repeats its frame.
    """

    start_s: float
    end_s: float
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """The decoded frames of one clip.

    Attributes:
        span: the clip.
        frames: ``(T, H, W, C)`` uint8 RGB.
        times_s: ``(T,)`` float64, presentation time of each frame in seconds.
    """

    span: ClipSpan
    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that gave no clips, and why.

    Attributes:
        video_id: the video's id.
        path: absolute path of the file.
        stage: ``source``, ``open``, ``timeline``, ``decode``, ``encode``, ``worker``, ``timeout`` or ``memory``.
        reason: one line.
        seconds: time spent on it before it failed.
        fingerprint: of the file that failed; a changed file is tried again.
    """

    video_id: str
    path: str
    stage: str
    reason: str
    seconds: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class QueryClip:
    """One clip of what was searched for.

    Attributes:
        name: clip id, media fragment, or name of the vector.
        path: absolute path of the video file; None for a vector.
        start_s: seconds of presentation time; 0 for a vector.
        end_s: seconds; 0 for a vector.
        fingerprint: of the file that was embedded; empty if that is not known.
    """

    name: str
    path: str | None = None
    start_s: float = 0.0
    end_s: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip returned for a query.

    Attributes:
        rank: 1 for the best.
        score: as the index's metric has it: cosine similarity, at most 1, unless that is another;
            of merged clips, the best one's.
        clip_id: the clip, as a media fragment; of merged clips, the span from the first to the last.
        video_id: its video.
        start_s: seconds of presentation time.
        end_s: seconds.
        path: absolute path of the video file when it was extracted.
        query: name of the query clip that it is nearest to.
        fingerprint: of the file that was embedded; empty if that is not known.
        clips: how many were merged into it; 1 is a clip of its own.
        columns: what the user's manifest said about the video, and the clip's label, where the library has any.
    """

    rank: int
    score: float
    clip_id: str
    video_id: str
    start_s: float
    end_s: float
    path: str
    query: str
    fingerprint: str = ""
    clips: int = 1
    columns: Mapping[str, Any] = field(default_factory=dict)


def fingerprint(size: int, mtime_ns: int) -> str:
    """Tell two states of a file apart by its size in bytes and its time of modification."""
    return f"{size}-{mtime_ns}"


def clip_id(video_id: str, start_s: float, end_s: float) -> str:
    """Name a clip by a W3C media fragment with millisecond times.

    >>> clip_id("a/b.mp4", 12, 14.1333)
    'a/b.mp4#t=12.000,14.133'
    """
    return f"{video_id}#t={start_s:.3f},{end_s:.3f}"


def split_fragment(text: str) -> tuple[str, float | None, float | None]:
    """Split ``video#t=start,end`` into its parts; a missing part is None.

    >>> split_fragment("a.mp4#t=3,5")
    ('a.mp4', 3.0, 5.0)
    >>> split_fragment("a.mp4")
    ('a.mp4', None, None)
    """
    match = _FRAGMENT.match(text)
    if match is None or (match["start"] is None and match["end"] is None):
        return text, None, None
    start, end = match["start"], match["end"]
    return match["video"], _seconds(start) if start else 0.0, _seconds(end) if end else None


def _seconds(time: str) -> float:
    """``75``, ``1:15`` and ``0:01:15.0`` are the same moment."""
    return sum(float(part) * 60.0**place for place, part in enumerate(reversed(time.split(":"))))
