"""Which videos belong together, and which of them could go: clusters, keepers, extras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.duplicates.clips import Clips
from vmae_embed.duplicates.pairs import Ints, Matches
from vmae_embed.duplicates.voting import Runs
from vmae_embed.library import Library


@dataclass(frozen=True)
class Covers:
    """How much of two videos their runs together take in, for E pairs of videos, ascending.

    Attributes:
        video_a: ``(E,)`` int64, places in ``Clips.video_ids``.
        video_b: ``(E,)`` int64; ``video_a`` where a video repeats itself.
        of_a: ``(E,)`` float64, share of its clips.
        of_b: ``(E,)`` float64.
        pair: ``(R,)`` int64, the pair of each run.
    """

    video_a: Ints
    video_b: Ints
    of_a: NDArray[np.float64]
    of_b: NDArray[np.float64]
    pair: Ints


def cover(clips: Clips, matches: Matches, runs: Runs) -> Covers:
    """Say how much of each of two videos is in the other; within one video, how much occurs twice."""
    count = len(clips.video_ids)
    keys, pair = np.unique(runs.video_a * count + runs.video_b, return_inverse=True)
    pair = pair.ravel().astype(np.int64)
    video_a, video_b = np.divmod(keys, count)
    of = pair[runs.run]
    a, b = matches.a[runs.votes], matches.b[runs.votes]
    is_within = (video_a == video_b)[of]
    # Within a video, what is repeated and its repetition are the same video's clips.
    twice = np.concatenate([of[is_within]] * 2), np.concatenate([a[is_within], b[is_within]])
    of_a, of_b = (
        _distinct(np.append(of[~is_within], twice[0]), np.append(clip[~is_within], twice[1]), len(keys), len(clips))
        / clips.count[video]
        for clip, video in ((a, video_a), (b, video_b))
    )
    return Covers(video_a, video_b, of_a, of_b, pair)


def _distinct(of: Ints, clip: Ints, count: int, clips: int) -> Ints:
    return np.bincount(np.unique(of * clips + clip) // clips, minlength=count)


@dataclass(frozen=True, slots=True)
class Member:
    """A video of a cluster.

    Attributes:
        cluster: its number, from 1 on; the largest cluster is the first.
        video_id: of the video.
        copy_of: the kept video that holds what it holds; None for a video to keep.
        cover: share of its clips that are in that one; 1 for a video to keep.
        clips: how many it has.
        duration_s: seconds; 0 if that is not known.
        width: pixels; 0 if that is not known.
        height: pixels; 0 if that is not known.
        path: of the file when it was extracted; empty if it has none.
    """

    cluster: int
    video_id: str
    copy_of: str | None
    cover: float
    clips: int
    duration_s: float
    width: int
    height: int
    path: str


def find_clusters(library: Library, clips: Clips, covers: Covers, *, min_cover: float) -> list[Member]:
    """Join videos that share enough, and choose which of them to keep.

    Of each cluster the longest is kept, then the largest picture, then the least id; and beside it
    every video that no kept one holds: two films that share an excerpt are not copies of each other.

    Args:
        library: that says how long and large videos are.
        clips: of the library.
        covers: how much of videos is in others.
        min_cover: share of its clips from which a video counts as held by another.

    Returns:
        The videos of clusters, the larger first; in each the kept ones first, each followed by its copies.
    """
    is_held = np.maximum(covers.of_a, covers.of_b) >= min_cover
    joined = np.flatnonzero((covers.video_a != covers.video_b) & is_held)
    edges = list(zip(covers.video_a[joined].tolist(), covers.video_b[joined].tolist(), strict=True))
    held: dict[int, dict[int, float]] = {}
    for (a, b), of_a, of_b in zip(edges, covers.of_a[joined].tolist(), covers.of_b[joined].tolist(), strict=True):
        held.setdefault(a, {})[b] = of_a
        held.setdefault(b, {})[a] = of_b
    facts = _facts(library, {clips.video_ids[video] for video in held})

    def rank(video: int) -> tuple[float, int, int]:
        _, duration, width, height = facts.get(clips.video_ids[video], _UNKNOWN)
        # Copies differ by a frame or two in length; that makes none the better one.
        return -round(duration), -width * height, video

    members = []
    for number, videos in enumerate(_components(edges), 1):
        kept: dict[int, list[tuple[int, float]]] = {}
        for video in sorted(videos, key=rank):
            share, keeper = max(((held[video].get(keeper, 0.0), -keeper) for keeper in kept), default=(0.0, 0))
            if share >= min_cover:
                kept[-keeper].append((video, share))
            else:
                kept[video] = []
        for keeper, extras in kept.items():
            members.append(_member(number, keeper, None, 1.0, clips, facts))
            members += [_member(number, video, keeper, share, clips, facts) for video, share in extras]
    return members


_Facts = tuple[str, float, int, int]
_UNKNOWN: _Facts = ("", 0.0, 0, 0)


def _member(
    cluster: int, video: int, keeper: int | None, share: float, clips: Clips, facts: Mapping[str, _Facts]
) -> Member:
    video_id = clips.video_ids[video]
    path, duration, width, height = facts.get(video_id, _UNKNOWN)
    copy_of = None if keeper is None else clips.video_ids[keeper]
    return Member(cluster, video_id, copy_of, share, int(clips.count[video]), duration, width, height, path)


def _facts(library: Library, video_ids: set[str]) -> dict[str, _Facts]:
    """Path, seconds, width and height of some videos."""
    columns = ["video_id", "path", "duration_s", "width", "height"]
    facts = {}
    for shard in library.shards(columns) if video_ids else ():
        for row in shard.group_by(columns).aggregate([]).to_pylist():
            if row["video_id"] in video_ids:
                facts[row["video_id"]] = (
                    row["path"] or "",
                    row["duration_s"] or 0.0,
                    row["width"] or 0,
                    row["height"] or 0,
                )
    return facts


def _components(edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Videos that edges join, directly or through others: the most first, then by their least."""
    parent: dict[int, int] = {}

    def root(video: int) -> int:
        above = parent.setdefault(video, video)
        while above != video:
            parent[video] = parent[above]
            video, above = above, parent[above]
        return video

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for video in sorted(parent):
        groups.setdefault(root(video), []).append(video)
    return sorted(groups.values(), key=lambda videos: (-len(videos), videos[0]))
