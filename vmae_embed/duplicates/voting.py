"""From pairs of clips to pairs of videos: by which offset one repeats the other, and where.

Every pair of clips votes for the offset between its videos. The offset with the most votes of one
uninterrupted run wins; what that run explains is taken away, and the rest votes again: a compilation
may hold a scene twice. All pairs of videos are counted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.duplicates.clips import TOLERANCE_S, Clips
from vmae_embed.duplicates.pairs import Ints, Matches

# Offsets of one pair of videos, at most.
MOST_OFFSETS = 16

# A run goes on over so many missing clips: damage, titles laid over, a change of picture at a cut.
_GAP = 5.5

# Votes that are counted at once; each is in three bins.
_VOTES = 1_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """R stretches in which one video repeats another, or itself.

    Attributes:
        video_a: ``(R,)`` int64, places in ``Clips.video_ids``.
        video_b: ``(R,)`` int64; ``video_a`` where a video repeats itself.
        offset_s: ``(R,)`` float64, moments in b less the same in a, in seconds.
        span: ``(R, 4)`` float64, seconds: start and end in a, start and end in b.
        clips: ``(R,)`` int64, clips that agree: of a or of b, whichever are fewer.
        best: ``(R,)`` float32, the best score.
        mean: ``(R,)`` float32, of each clip's best score.
        votes: places in `Matches` of the pairs of clips that agreed.
        run: the run of each of these.
        cut: pairs of videos with more offsets than are told.
    """

    video_a: Ints
    video_b: Ints
    offset_s: Floats
    span: Floats
    clips: Ints
    best: NDArray[np.float32]
    mean: NDArray[np.float32]
    votes: Ints
    run: Ints
    cut: int


def vote(clips: Clips, matches: Matches, *, min_clips: int) -> Runs:
    """Find by which offsets videos repeat each other, and themselves.

    Args:
        clips: of a library.
        matches: pairs of them that look alike.
        min_clips: that must agree on an offset; between videos all of the shorter one will do.
    """
    pair = clips.video[matches.a] * len(clips.video_ids) + clips.video[matches.b]
    order = np.argsort(pair, kind="stable")
    begins = np.flatnonzero(np.diff(pair[order], prepend=-1))
    sizes = np.diff(begins, append=len(order))
    enough = sizes >= _needed(clips, *np.divmod(pair[order[begins]], len(clips.video_ids)), min_clips)
    order = order[np.repeat(enough, sizes)]
    # Whole pairs of videos at a time.
    ends = np.cumsum(sizes[enough])
    borders = np.append(np.flatnonzero(np.diff(ends // _VOTES)) + 1, len(ends))
    parts, first = [_no_runs()], 0
    for last in ends[borders[borders > 0] - 1]:
        parts.append(_Votes(clips, matches, order[first:last]).count(min_clips))
        first = last
    return _joined(parts)


def _needed(clips: Clips, video_a: Ints, video_b: Ints, min_clips: int) -> Ints:
    shorter = np.minimum(clips.count[video_a], clips.count[video_b])
    return np.where(video_a == video_b, min_clips, np.minimum(min_clips, shorter))


class _Votes:
    """The votes of some pairs of videos, by their places among these V."""

    def __init__(self, clips: Clips, matches: Matches, places: Ints) -> None:
        self._clips, self._places = clips, places
        self._a, self._b, self._score = matches.a[places], matches.b[places], matches.score[places]
        video_a, video_b = clips.video[self._a], clips.video[self._b]
        _, first, pair = np.unique(video_a * len(clips.video_ids) + video_b, return_index=True, return_inverse=True)
        self._pair: Ints = pair.ravel()
        self._videos = video_a[first], video_b[first]
        self._hop = np.maximum(clips.hop_s[video_a], clips.hop_s[video_b])
        self._start_a, self._start_b = clips.start_s[self._a], clips.start_s[self._b]
        # Clip ids have milliseconds; zero is added lest there be a minus before it.
        self._offset = np.round(self._start_b - self._start_a, 3) + 0.0
        self._bin = np.rint(self._offset / (self._hop / 2)).astype(np.int64)

    def count(self, min_clips: int) -> Runs:
        """Let the votes elect one run after another of each pair of videos."""
        needed = _needed(self._clips, *self._videos, min_clips)
        winners = []
        left = np.arange(len(self._a))
        for _ in range(MOST_OFFSETS):
            winner = self._elect(left, needed)
            winners.append(winner)
            left = self._unexplained(left, winner)
        more = self._pair[self._elect(left, needed)]
        return self._runs(winners, cut=len(np.unique(more)))

    def _elect(self, left: Ints, needed: Ints) -> Ints:
        """The votes of the best run of each pair of videos: by pair, moment and clip of a, best score first."""
        # Each is in three bins, so that votes on both sides of a border find each other.
        votes: Ints = np.tile(left, 3)
        shift = np.repeat([-1, 0, 1], len(left))
        bins = self._bin[votes] + shift
        order = np.lexsort((-self._score[votes], self._a[votes], self._start_a[votes], bins, self._pair[votes]))
        votes, shift, bins = votes[order], shift[order], bins[order]
        pair, score = self._pair[votes], self._score[votes].astype(np.float64)
        is_new = (np.diff(pair, prepend=-1) != 0) | (np.diff(bins, prepend=0) != 0)
        is_new |= np.diff(self._start_a[votes], prepend=0) > _GAP * self._hop[votes]
        begins, run = np.flatnonzero(is_new), np.cumsum(is_new) - 1
        if not len(begins):
            return votes
        # A clip votes once for an offset, by its best score.
        is_first = is_new | (np.diff(self._a[votes], prepend=-1) != 0)
        agreeing = np.minimum(np.bincount(run[is_first]), _distinct(run, self._b[votes]))
        weight = np.add.reduceat(np.where(is_first, score, 0), begins)
        own = np.add.reduceat(np.where(shift == 0, score, 0), begins)
        of = pair[begins]
        able = np.flatnonzero(agreeing >= needed[of])
        # Of bins with the same votes, the one that most are of; then the smallest offset.
        ranked = able[np.lexsort((np.abs(bins[begins[able]]), -own[able], -weight[able], of[able]))]
        best = np.zeros(len(begins), bool)
        best[ranked[np.diff(of[ranked], prepend=-1) != 0]] = True
        elected: Ints = votes[best[run]]
        return elected

    def _unexplained(self, left: Ints, winner: Ints) -> Ints:
        """The votes that still count: of pairs with a winner, those of moments that it has not joined."""
        count = len(self._videos[0])
        low, high = np.full((2, count), np.inf), np.full((2, count), -np.inf)
        for side, start in enumerate((self._start_a, self._start_b)):
            np.minimum.at(low[side], self._pair[winner], start[winner])
            np.maximum.at(high[side], self._pair[winner], start[winner])
        pair = self._pair[left]
        reach = self._hop[left] + TOLERANCE_S
        is_explained = np.ones(len(left), bool)
        for side, start in enumerate((self._start_a, self._start_b)):
            is_explained &= (start[left] >= low[side][pair] - reach) & (start[left] <= high[side][pair] + reach)
        unexplained: Ints = left[np.isfinite(low[0][pair]) & ~is_explained]
        return unexplained

    def _runs(self, winners: list[Ints], cut: int) -> Runs:
        votes = np.concatenate(winners)
        rounds = np.repeat(np.arange(len(winners)), [len(winner) for winner in winners])
        pair = self._pair[votes]
        order = np.lexsort((rounds, pair))  # keeps the order within a run
        votes, pair = votes[order], pair[order]
        is_new = (np.diff(pair, prepend=-1) != 0) | (np.diff(rounds[order], prepend=-1) != 0)
        begins, run = np.flatnonzero(is_new), np.cumsum(is_new) - 1
        if not len(begins):
            return _no_runs()
        a, b, score = self._a[votes], self._b[votes], self._score[votes]
        is_first = is_new | (np.diff(a, prepend=-1) != 0)
        agreeing = np.bincount(run[is_first])
        middle = begins + np.bincount(run) // 2
        start, end = self._clips.start_s, self._clips.end_s
        return Runs(
            video_a=self._videos[0][pair[begins]],
            video_b=self._videos[1][pair[begins]],
            offset_s=self._offset[votes][np.lexsort((self._offset[votes], run))][middle],
            span=np.stack(
                [
                    edge.reduceat(seconds[clip], begins)
                    for clip in (a, b)
                    for edge, seconds in ((np.minimum, start), (np.maximum, end))
                ],
                axis=1,
            ),
            clips=np.minimum(agreeing, _distinct(run, b)),
            best=np.maximum.reduceat(score, begins),
            mean=(np.bincount(run[is_first], score[is_first]) / agreeing).astype(np.float32),
            votes=self._places[votes],
            run=run,
            cut=cut,
        )


def _distinct(run: Ints, clip: Ints) -> Ints:
    """``(R,)``: how many clips each run has; runs are numbered from 0 on."""
    order = np.lexsort((clip, run))
    is_other = (np.diff(run[order], prepend=-1) != 0) | (np.diff(clip[order], prepend=-1) != 0)
    return np.bincount(run[order][is_other])


def _joined(parts: list[Runs]) -> Runs:
    before = np.cumsum([0, *(len(part.clips) for part in parts)])
    columns = ("video_a", "video_b", "offset_s", "span", "clips", "best", "mean", "votes")
    return Runs(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        run=np.concatenate([part.run + first for part, first in zip(parts, before[:-1], strict=True)]),
        cut=sum(part.cut for part in parts),
    )


def _no_runs() -> Runs:
    none, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    return Runs(none, none, np.empty(0), np.empty((0, 4)), none, scores, scores, none, none, cut=0)
