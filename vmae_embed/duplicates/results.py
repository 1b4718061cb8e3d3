"""What `find_duplicates` gives: stretches of videos that occur twice, clusters, pairs of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa

from vmae_embed.duplicates.clips import Clips
from vmae_embed.duplicates.clusters import Member
from vmae_embed.duplicates.pairs import Matches
from vmae_embed.index import Index

# Rows that are made at once.
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class VideoPair:
    """A stretch of one video that occurs in another, or again in the same.

    Attributes:
        kind: ``copy`` if each holds the other, ``a in b`` or ``b in a`` if one is held, ``part`` if they
            only share one, ``repeat`` within one video.
        video_a: id of a video.
        video_b: id of the other, which comes after it; the same where a video repeats itself.
        offset_s: seconds; what is at ``t`` in a is at ``t + offset_s`` in b.
        start_a_s: where the stretch begins in a, in seconds.
        end_a_s: where it ends.
        start_b_s: where it begins in b.
        end_b_s: where it ends.
        clips: that agree on the offset.
        cover_a: share of a's clips that b holds, by all offsets of the two together.
        cover_b: share of b's clips that a holds; within one video both are the share that occurs twice.
        best: the best score of two clips.
        mean: the mean of the clips' best scores.
        cluster: that joins the two; None if none does.
    """

    kind: str
    video_a: str
    video_b: str
    offset_s: float
    start_a_s: float
    end_a_s: float
    start_b_s: float
    end_b_s: float
    clips: int
    cover_a: float
    cover_b: float
    best: float
    mean: float
    cluster: int | None


@dataclass(frozen=True, slots=True)
class Background:
    """How clips of different videos score whatever they show, of a sample.

    Attributes:
        median: of the scores.
        high: score that one pair in a thousand reaches.
    """

    median: float
    high: float


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found.

    Attributes:
        pairs: of videos: those of clusters first, then those that have most in common.
        members: the videos of clusters, cluster by cluster, kept ones before their copies.
        clip_pairs: rows of the pairs of clips that look alike, made when they are read; best first.
        videos: in the library.
        clips: in the library.
        centered: whether the library's mean was taken off.
        background: None where there are too few videos to tell.
        crowded: clips that look like more than they keep.
        cut_at: the lowest score left after the worst pairs of clips were let go; None if none were.
        many_offsets: pairs of videos with more offsets than are told.
    """

    pairs: list[VideoPair]
    members: list[Member]
    clip_pairs: Sequence[dict[str, Any]]
    videos: int
    clips: int
    centered: bool
    background: Background | None
    crowded: int
    cut_at: float | None
    many_offsets: int

    @property
    def extras(self) -> list[Member]:
        """Videos that a kept video holds."""
        return [member for member in self.members if member.copy_of is not None]


class ClipPairs(Sequence[dict[str, Any]]):
    """Rows of pairs of clips, best first: there may be millions, so each is made when it is read."""

    def __init__(self, index: Index, clips: Clips, matches: Matches) -> None:
        order = np.lexsort((matches.b, matches.a, -matches.score))
        self._a, self._b, self._score = matches.a[order], matches.b[order], matches.score[order]
        self._clips, self._ids = clips, index.clips["clip_id"]

    def __len__(self) -> int:
        return len(self._score)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return self._rows(place)
        return self._rows(slice(place, place + 1 or None))[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self), _CHUNK):
            yield from self._rows(slice(first, first + _CHUNK))

    def _rows(self, place: slice) -> list[dict[str, Any]]:
        a, b = self._a[place], self._b[place]
        ids = [self._ids.take(pa.array(self._clips.rows[side])).to_pylist() for side in (a, b)]
        offset = self._clips.start_s[b] - self._clips.start_s[a]
        names = ("clip_a", "clip_b", "score", "offset_s")
        columns = (*ids, self._score[place].astype(np.float64).tolist(), offset.tolist())
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
