"""Searching: queries in, hits out; one query is a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import QueryError, VmaeEmbedError
from vmae_embed.index import Index
from vmae_embed.query.answer import Hits, Searcher
from vmae_embed.query.asked import Asked, check_metric
from vmae_embed.query.live import LiveClips
from vmae_embed.query.resolve import Resolver
from vmae_embed.query.wanted import Wanted
from vmae_embed.query.where import rows_where

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder

    Query = str | Path | NDArray[np.floating[Any]]

# Queries that the library is looked through for at once, and vectors that wait for it.
_QUERIES_AT_ONCE = 256
_VECTORS_AT_ONCE = 1024
# Hits that are held until they are given; of a range nobody knows how many come.
_HITS_AT_ONCE = 100_000
_RANGES_AT_ONCE = 16


def search(
    index: Index,
    query: Query,
    *,
    encoder: Encoder | Callable[[], Encoder] | None = None,
    k: int | None = 10,
    where: str | None = None,
    group_by: str = "clip",
    merge_gap: float | None = None,
    min_score: float | None = None,
    combine: str = "max",
    include_self: bool = False,
    exact: bool = False,
    decoder: str = "auto",
) -> Hits:
    """Find the clips that look most like a query.

    Args:
        index: of a library.
        query: a video file (``clip.mp4``), a moment of one (``clip.mp4#t=3,5``), a clip or video id
            of the library, a ``.npy`` file, or an array ``(D,)`` or ``(Q, D)``.
        encoder: that embeds a file, or a function that loads one; None loads the library's own
            checkpoint. Not needed for what the library already holds.
        k: how many hits; None for all that reach ``min_score``.
        where: an SQL condition on the columns of ``index.clips``; only clips that it is true of are
            found.
        group_by: ``clip``, or ``video`` for the best hit of each video.
        merge_gap: merge hits of one video that overlap, or lie at most so many seconds apart, into
            one, from the best down until one more would be the k+1st; None merges nothing. Such a
            hit has the score of its best clip.
        min_score: the least score of a hit.
        combine: of several query clips, whether a hit's score is its ``max`` (that of the nearest) or
            its ``mean`` over all.
        include_self: also return the query's own clips: those of its video that overlap it.
        exact: compare with every clip instead of asking the index.
        decoder: one of `vmae_embed.decode.DECODERS`.

    Raises:
        QueryError: the query cannot be read, or names nothing.
        UsageError: another argument is wrong.
        IdentityMismatch: the encoder is not the library's.
        CheckpointError: the library's checkpoint cannot be loaded.
    """
    (answer,) = search_many(
        index,
        [query],
        encoder=encoder,
        k=k,
        where=where,
        group_by=group_by,
        merge_gap=merge_gap,
        min_score=min_score,
        combine=combine,
        include_self=include_self,
        exact=exact,
        decoder=decoder,
    )
    if isinstance(answer, QueryError):
        raise answer
    return answer


def search_many(
    index: Index,
    queries: Iterable[Query],
    *,
    encoder: Encoder | Callable[[], Encoder] | None = None,
    k: int | None = 10,
    where: str | None = None,
    group_by: str = "clip",
    merge_gap: float | None = None,
    min_score: float | None = None,
    combine: str = "max",
    include_self: bool = False,
    exact: bool = False,
    decoder: str = "auto",
) -> Iterator[Hits | QueryError]:
    """Find the clips that look most like each of many queries.

    Queries are read, and their hits given, a few hundred at a time, however many there are.

    Args:
        index: of a library.
        queries: each as `search` takes it; the rows of an array ``(Q, D)`` are a query each.
        encoder: as `search` takes it; loaded at most once, for the first file.
        k: as `search` takes it, for each query.
        where: as `search` takes it.
        group_by: as `search` takes it.
        merge_gap: as `search` takes it, in seconds.
        min_score: as `search` takes it.
        combine: as `search` takes it.
        include_self: as `search` takes it.
        exact: as `search` takes it.
        decoder: as `search` takes it.

    Returns:
        For each query, in order, its hits, or why it could not be read.

    Raises:
        UsageError: an argument is wrong.
        IdentityMismatch: the encoder is not the library's.
        CheckpointError: the library's checkpoint cannot be loaded.
    """
    wanted = Wanted(k, group_by, include_self, exact, merge_gap, min_score, combine)
    check_metric(index.metric, combine)
    clips = LiveClips(index)
    among = clips.rows if where is None else np.intersect1d(rows_where(clips.table, where), clips.rows)
    resolver = Resolver(index, clips, encoder, decoder)
    return _answers(Searcher(index, clips, among, wanted), resolver, iter(queries), k)


def _answers(
    searcher: Searcher, resolver: Resolver, queries: Iterator[Query], k: int | None
) -> Iterator[Hits | QueryError]:
    most = _RANGES_AT_ONCE if k is None else max(1, min(_QUERIES_AT_ONCE, _HITS_AT_ONCE // k))
    waiting: list[Asked | QueryError] = []
    while block := list(islice(queries, most)):
        try:
            for asked in resolver.resolve(block):
                waiting.append(asked)
                # A file takes seconds to embed: what is known after one need not wait for the next.
                vectors = sum(len(one.vectors) for one in waiting if isinstance(one, Asked))
                if vectors >= _VECTORS_AT_ONCE or (isinstance(asked, Asked) and asked.embedded):
                    yield from searcher.answer(waiting)
                    waiting.clear()
        except VmaeEmbedError:
            yield from searcher.answer(waiting)
            raise
        yield from searcher.answer(waiting)
        waiting.clear()
