"""Which frames of a video make its clips: pure arithmetic over presentation times.

Four policies:

* by time (the default): T frames at ``fps`` frames a second, whatever the file's own rate,
  so that one library may mix rates. 16 frames at 7.5 a second span 2.13 s, as 16 frames at
  stride 4 of a 30 fps video do (the Kinetics protocol of VideoMAE, arXiv:2203.12602, A.1).
* by stride: every ``stride``-th frame as the file has them (Kinetics 4, SSv2 pre-training 2).
* ``clips_per_video``: either of these, but N windows spread evenly from first to last.
* uniform: one clip of T frames, each the middle of one of T equal segments (SSv2 fine-tuning), or
  each the first of its segment (the second clip of SSv2's test).

A moment shows the last frame that starts at or before it. So a video shorter than a window
repeats its last frame, and a slow video repeats frames as a player would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_embed.errors import DecodeError, UsageError
from vmae_embed.records import ClipSpan, Timeline

# Matroska and FLV round times to whole milliseconds: a frame due at 0.26667 s is stamped 0.267.
TOLERANCE_S = 0.001

# A still picture shown for longer than this is far likelier a damaged timestamp, and would make
# a clip of every two seconds of it.
LONGEST_FRAME_S = 3600.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How clips are cut from videos, and frames from clips.

    Attributes:
        frames: T, frames in a clip; the encoder's checkpoint fixes it.
        fps: frames a second, sampled by time; ignored with ``stride`` or ``uniform``.
        stride: sample every stride-th frame instead.
        hop_s: seconds from the start of a window to the next; None makes windows touch.
        clips_per_video: this many windows a video, evenly spread; None covers all of it.
        uniform: one clip spread over the whole video.
        segment_starts: spread it over the starts of its segments instead of their middles.

    Raises:
        UsageError: a value is out of range, or two of them contradict each other.
    """

    frames: int = 16
    fps: float = 7.5
    stride: int | None = None
    hop_s: float | None = None
    clips_per_video: int | None = None
    uniform: bool = False
    segment_starts: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UsageError(f"frames={self.frames}: a clip needs at least 1 frame")
        if not 0 < self.fps <= 1000:
            raise UsageError(f"fps={self.fps:g}: give frames a second, above 0 and at most 1000")
        if self.stride is not None and self.stride < 1:
            raise UsageError(f"stride={self.stride}: give a number of frames, at least 1")
        if self.hop_s is not None and not 0.01 <= self.hop_s < float("inf"):
            raise UsageError(f"hop={self.hop_s:g}: give seconds, at least 0.01")
        if self.clips_per_video is not None and self.clips_per_video < 1:
            raise UsageError(f"clips-per-video={self.clips_per_video}: give at least 1")
        if self.clips_per_video is not None and self.hop_s is not None:
            raise UsageError("clips-per-video and hop contradict each other: give one of them")
        if self.uniform and (self.stride or self.hop_s is not None or self.clips_per_video):
            raise UsageError("uniform takes one clip of the whole video: give no stride, hop or clips-per-video")
        if self.segment_starts and not self.uniform:
            raise UsageError("segment_starts belongs to uniform: give both")

    def to_dict(self) -> dict[str, Any]:
        """Return what tells two policies apart, ready for JSON."""
        fields = asdict(self)
        if self.stride is not None or self.uniform:
            del fields["fps"]
        return {name: value for name, value in fields.items() if value not in (None, False)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Sampling:
        """Read back what `to_dict` wrote."""
        return cls(**fields)

    def __str__(self) -> str:
        if self.uniform:
            return f"{self.frames} frames spread over the whole video{', at segment starts' * self.segment_starts}"
        rate = f"stride {self.stride}" if self.stride else f"{self.fps:g} frames a second"
        if self.clips_per_video:
            windows = f"{self.clips_per_video} clips a video"
        else:
            windows = "touching windows" if self.hop_s is None else f"a window every {self.hop_s:g} s"
        return f"{self.frames} frames, {rate}, {windows}"


def plan_spans(
    timeline: Timeline, sampling: Sampling, *, start_s: float | None = None, end_s: float | None = None
) -> Iterator[ClipSpan]:
    """Cut a video, or the part of it between two moments, into clips.

    Args:
        timeline: presentation times of the video's frames.
        sampling: the policy.
        start_s: seconds; clips cover nothing before it.
        end_s: seconds; clips cover nothing after it.

    Returns:
        At least one clip, in order of time, one by one: a long video has very many.

    Raises:
        DecodeError: the part holds no frame, or two frames lie over an hour apart.
    """
    times = timeline.times_s
    begin = max(float(times[0]), start_s if start_s is not None else 0.0)
    finish = min(timeline.end_s, end_s if end_s is not None else timeline.end_s)
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise DecodeError(f"{start_s:g} to {end_s:g} s ends before it starts", stage="timeline")
    if begin >= finish:
        raise DecodeError(
            f"nothing from {start_s or 0:g} s on{'' if end_s is None else f' to {end_s:g} s'}: "
            f"the video shows {times[0]:.3f} to {timeline.end_s:.3f} s",
            stage="timeline",
        )
    moments = np.concatenate([[0.0], times, [timeline.end_s]])
    gaps = np.diff(moments)
    if float(gaps.max()) > LONGEST_FRAME_S:
        at = int(gaps.argmax())
        raise DecodeError(f"timestamps jump by {gaps[at]:.0f} s after {moments[at]:.3f} s", stage="timeline")

    part = _Part(times, begin, finish)
    if sampling.uniform:
        count = part.last - part.first + 1
        half = 0 if sampling.segment_starts else 1
        frames = tuple(part.first + (2 * i + half) * count // (2 * sampling.frames) for i in range(sampling.frames))
        return iter([ClipSpan(begin, finish, frames)])
    if sampling.stride is not None:
        return _distinct(_by_stride(part, sampling, sampling.stride))
    return _distinct(_by_time(part, sampling))


def _distinct(spans: Iterator[ClipSpan]) -> Iterator[ClipSpan]:
    """Leave out a clip whose times, in the milliseconds of its id, are those of the clip before."""
    last = None
    for span in spans:
        times = (round(span.start_s, 3), round(span.end_s, 3))
        if times != last:
            yield span
        last = times


class _Part:
    """The frames that are shown between two moments of a video."""

    def __init__(self, times: np.ndarray[Any, np.dtype[np.float64]], begin: float, finish: float) -> None:
        self.times, self.begin, self.finish = times, begin, finish
        self.first = 0
        self.last = len(times) - 1
        self.first = self.shown_at(begin)
        self.last = max(self.first, int(np.searchsorted(times, finish - TOLERANCE_S)) - 1)

    def shown_at(self, moment_s: float) -> int:
        """Index of the frame that is shown at a moment, kept within the part."""
        index = int(np.searchsorted(self.times, moment_s + TOLERANCE_S, side="right")) - 1
        return min(max(index, self.first), self.last)


def _by_time(part: _Part, sampling: Sampling) -> Iterator[ClipSpan]:
    length = sampling.frames / sampling.fps
    for start in _starts_by_time(part, sampling, length):
        yield ClipSpan(
            start,
            min(start + length, part.finish),
            tuple(part.shown_at(start + i / sampling.fps) for i in range(sampling.frames)),
        )


def _starts_by_time(part: _Part, sampling: Sampling, length: float) -> Iterator[float]:
    room = part.finish - part.begin - length
    if room <= TOLERANCE_S:
        yield part.begin
        return
    if sampling.clips_per_video is not None:
        yield from (part.begin + room * x for x in _spread(sampling.clips_per_video))
        return
    hop = length if sampling.hop_s is None else sampling.hop_s
    count = int((room + TOLERANCE_S) / hop) + 1
    yield from (part.begin + i * hop for i in range(count))
    # A hop longer than the window asks for gaps; the tail may be such a gap, but no longer one.
    if part.times[part.last] >= part.begin + (count - 1) * hop + max(length, hop) - TOLERANCE_S:
        yield part.finish - length


def _by_stride(part: _Part, sampling: Sampling, stride: int) -> Iterator[ClipSpan]:
    length = sampling.frames * stride
    for start in _starts_by_stride(part, sampling, length):
        end = start + length
        yield ClipSpan(
            max(float(part.times[start]), part.begin),
            float(part.times[end]) if end <= part.last else part.finish,
            tuple(min(start + i * stride, part.last) for i in range(sampling.frames)),
        )


def _starts_by_stride(part: _Part, sampling: Sampling, length: int) -> Iterator[int]:
    room = part.last + 1 - part.first - length
    if room <= 0:
        yield part.first
        return
    if sampling.clips_per_video is not None:
        yield from dict.fromkeys(part.first + round(room * x) for x in _spread(sampling.clips_per_video))
        return
    start, following = part.first, part.first
    while following <= part.first + room:
        start = following
        yield start
        following = start + length
        if sampling.hop_s is not None:
            due = part.times[start] + sampling.hop_s - TOLERANCE_S
            following = max(int(np.searchsorted(part.times, due)), start + 1)
    if max(following, start + length) <= part.last:
        yield part.first + room


def _spread(count: int) -> list[float]:
    """``count`` numbers from 0 to 1; one alone lies in the middle."""
    return [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
