"""Which ranked clips become hits: none of the query itself, merged into spans, one a video, so many of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.query.asked import Asked
from vmae_embed.query.rank import Ranked
from vmae_embed.query.wanted import Wanted

# Times are those of ids: in milliseconds.
_TOUCHING_S = 0.0005


@dataclass(slots=True)
class Span:
    """A clip, or several of one video that became one.

    Attributes:
        best: place of its best clip among the ranked.
        video: code of its video.
        start_s: seconds.
        end_s: seconds.
        clips: how many it was merged from.
    """

    best: int
    video: int
    start_s: float
    end_s: float
    clips: int = 1


@dataclass(frozen=True)
class Times:
    """Where ranked clips lie, a value for each.

    Attributes:
        videos: codes; the same for clips of one video.
        starts_s: seconds; NaN where that is not known.
        ends_s: seconds, likewise.
    """

    videos: NDArray[np.int64]
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]


def choose(
    asked: Asked, own_videos: NDArray[np.int64], ranked: Ranked, times: Times, wanted: Wanted
) -> tuple[list[Span], bool]:
    """Choose hits among ranked clips.

    Args:
        asked: the query.
        own_videos: codes of the videos that it is part of.
        ranked: clips, from the best down.
        times: of them.
        wanted: which hits.

    Returns:
        Spans, best first, and whether they are all: a deeper ranking would give no others.
    """
    kept = ranked.scores >= max(wanted.floor, ranked.floor)
    if not wanted.include_self:
        overlaps = (times.starts_s < asked.end_s) & (times.ends_s > asked.start_s)
        kept &= ~np.isin(ranked.rows, asked.rows) & ~(np.isin(times.videos, own_videos) & overlaps)
    places = np.flatnonzero(kept)
    if wanted.merge_gap is not None:
        spans, are_enough = _merged(places, times, wanted, wanted.merge_gap)
    else:
        if wanted.group_by == "video":
            _, first = np.unique(times.videos[places], return_index=True)
            places = places[np.sort(first)]
        spans = [_span(times, int(place)) for place in places[: wanted.k]]
        are_enough = len(spans) == wanted.k
    return spans, are_enough or ranked.floor < wanted.floor or ranked.floor == -np.inf


def _span(times: Times, place: int) -> Span:
    return Span(place, int(times.videos[place]), float(times.starts_s[place]), float(times.ends_s[place]))


def _merged(places: NDArray[np.intp], times: Times, wanted: Wanted, gap_s: float) -> tuple[list[Span], bool]:
    """Merge clips from the best down, until one would begin a span (or be of a video) too many.

    Not until there are k: the last of them would always be a single clip.

    Returns:
        Spans, best first, and whether such a clip was met.
    """
    by_video = wanted.group_by == "video"
    lines: dict[int, _Line] = {}
    count, are_enough = 0, False
    for place in places:
        span = _span(times, int(place))
        line = lines[span.video] if span.video in lines else _Line(gap_s + _TOUCHING_S)
        begins = span.video not in lines if by_video else not line.meets(span)
        if begins and count == wanted.k:
            are_enough = True
            break
        before = len(line)
        line.add(span)
        lines[span.video] = line
        count += int(begins) if by_video else len(line) - before
    if by_video:
        spans = [min(line.spans, key=lambda span: span.best) for line in lines.values()]
    else:
        spans = [span for line in lines.values() for span in line.spans]
    return sorted(spans, key=lambda span: span.best), are_enough


class _Line:
    """The spans of one video in their order in time, farther apart than a gap."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._joined: list[Span] = []
        self._points: list[Span] = []

    def __len__(self) -> int:
        return len(self._joined) + len(self._points)

    @property
    def spans(self) -> list[Span]:
        return self._joined + self._points

    def meets(self, span: Span) -> bool:
        """Whether it would be merged with one that is there."""
        return bool(span.end_s > span.start_s and self._joined[self._places(span)])

    def add(self, span: Span) -> None:
        """Merge it with what it meets."""
        # Neither clips of no length nor those whose times are not known lie anywhere.
        if not span.end_s > span.start_s:
            self._points.append(span)
            return
        where = self._places(span)
        met = self._joined[where]
        whole = Span(
            min([span.best, *(one.best for one in met)]),
            span.video,
            min([span.start_s, *self._starts[where]]),
            max([span.end_s, *self._ends[where]]),
            1 + sum(one.clips for one in met),
        )
        self._starts[where] = [whole.start_s]
        self._ends[where] = [whole.end_s]
        self._joined[where] = [whole]

    def _places(self, span: Span) -> slice:
        first = bisect_left(self._ends, span.start_s - self._gap_s)
        return slice(first, bisect_right(self._starts, span.end_s + self._gap_s, lo=first))
