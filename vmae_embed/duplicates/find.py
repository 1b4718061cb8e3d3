"""The duplicates of a library: clips that look alike, the videos they are of, and their clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vmae_embed.duplicates.clips import Clips, Vectors
from vmae_embed.duplicates.clusters import Covers, Member, cover, find_clusters
from vmae_embed.duplicates.pairs import SCOPES, Limits, match
from vmae_embed.duplicates.results import Background, ClipPairs, Duplicates, VideoPair
from vmae_embed.duplicates.voting import Runs, vote
from vmae_embed.errors import UsageError
from vmae_embed.index import Index

# The mean of fewer videos is too much that of each: two copies and nothing else would be opposites.
CENTER_FROM = 20

# 2,000 clips make two million pairs.
_SAMPLE = 2000

# Recall of an index from which on it is asked for copies.
_TRUSTED = 0.9


def find_duplicates(
    index: Index,
    *,
    threshold: float = 0.95,
    scope: str = "both",
    center: bool | None = None,
    exact: bool = False,
    min_clips: int = 2,
    min_cover: float = 0.8,
    max_per_clip: int = 100,
    max_pairs: int = 5_000_000,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Duplicates:
    """Find the videos of a library that repeat each other, or themselves.

    Copies at another speed are not found as one stretch: all of it must have one offset.

    Args:
        index: of the library.
        threshold: cosine similarity from which two clips look alike.
        scope: ``between`` videos, ``within`` them, or ``both``.
        center: take the library's mean embedding off before comparing; None does from
            `CENTER_FROM` videos on.
        exact: compare all clips with all instead of asking the index; so too where its recall is under 0.9.
        min_clips: that must agree on an offset; between videos all of the shorter one will do.
        min_cover: share of its clips from which a video counts as held by another: that joins the
            two in a cluster, and makes the one an extra if the other is kept.
        max_per_clip: best pairs of clips that each clip keeps.
        max_pairs: best pairs of clips that are kept in all.
        on_progress: called with how many clips have been compared, and of how many.

    Raises:
        UsageError: an argument is out of range.
    """
    _check(threshold, scope, min_clips, min_cover, max_per_clip, max_pairs)
    clips = Clips.of(index)
    centered = len(clips.video_ids) >= CENTER_FROM if center is None else center
    vectors = Vectors(index, clips, center=centered)
    limits = Limits(threshold, scope, max_per_clip, max_pairs)
    # An index that misses what is near would miss copies.
    is_exact = exact or index.effort is None or index.about["recall"]["measured"] < _TRUSTED
    matches = match(index, clips, vectors, limits, exact=is_exact, on_progress=on_progress)
    runs = vote(clips, matches, min_clips=min_clips)
    covers = cover(clips, matches, runs)
    members = find_clusters(index.library, clips, covers, min_cover=min_cover)
    return Duplicates(
        pairs=_pairs(clips, runs, covers, members, min_cover),
        members=members,
        clip_pairs=ClipPairs(index, clips, matches),
        videos=len(clips.video_ids),
        clips=len(clips),
        centered=centered,
        background=_background(clips, vectors),
        crowded=matches.crowded,
        cut_at=matches.cut_at,
        many_offsets=runs.cut,
    )


def _check(threshold: float, scope: str, min_clips: int, min_cover: float, max_per_clip: int, max_pairs: int) -> None:
    if not -1 <= threshold <= 1:
        raise UsageError(f"threshold={threshold:g}: give a cosine similarity, from -1 to 1")
    if scope not in SCOPES:
        raise UsageError(f"scope={scope!r}: choose one of {', '.join(SCOPES)}")
    if not 0 < min_cover <= 1:
        raise UsageError(f"min-cover={min_cover:g}: give a share, above 0 and at most 1")
    for name, value in (("min-clips", min_clips), ("max-per-clip", max_per_clip), ("max-pairs", max_pairs)):
        if value < 1:
            raise UsageError(f"{name}={value}: give at least 1")


def _background(clips: Clips, vectors: Vectors) -> Background | None:
    if len(clips.video_ids) < CENTER_FROM:
        return None
    chosen = np.random.default_rng(0).permutation(len(clips))[:_SAMPLE]
    sample = vectors(chosen)
    video = clips.video[chosen]
    scores = (sample @ sample.T)[video[:, None] < video]
    return Background(*(float(value) for value in np.quantile(scores, [0.5, 0.999])))


def _pairs(clips: Clips, runs: Runs, covers: Covers, members: list[Member], min_cover: float) -> list[VideoPair]:
    cluster = {member.video_id: member.cluster for member in members}
    pairs = []
    for run, pair in enumerate(covers.pair.tolist()):
        video_a, video_b = clips.video_ids[runs.video_a[run]], clips.video_ids[runs.video_b[run]]
        cover_a, cover_b = float(covers.of_a[pair]), float(covers.of_b[pair])
        start_a, end_a, start_b, end_b = runs.span[run].tolist()
        is_joined = video_a != video_b and cluster.get(video_a) == cluster.get(video_b)
        pairs.append(
            VideoPair(
                _kind(cover_a, cover_b, min_cover) if video_a != video_b else "repeat",
                video_a,
                video_b,
                float(runs.offset_s[run]),
                start_a,
                end_a,
                start_b,
                end_b,
                int(runs.clips[run]),
                cover_a,
                cover_b,
                float(runs.best[run]),
                float(runs.mean[run]),
                cluster.get(video_a) if is_joined else None,
            )
        )
    return sorted(pairs, key=_order)


def _kind(cover_a: float, cover_b: float, min_cover: float) -> str:
    if min(cover_a, cover_b) >= min_cover:
        return "copy"
    if max(cover_a, cover_b) < min_cover:
        return "part"
    return "a in b" if cover_a > cover_b else "b in a"


def _order(pair: VideoPair) -> tuple[Any, ...]:
    cluster = float("inf") if pair.cluster is None else pair.cluster
    return cluster, -max(pair.cover_a, pair.cover_b), pair.video_a, pair.video_b, -pair.clips, pair.offset_s
