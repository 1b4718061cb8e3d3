"""Searching: queries in, hits out; one query is a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import QueryError, VmaeEmbedError
from vmae_embed.index import Index
from vmae_embed.query.asked import Asked, check_metric
from vmae_embed.query.live import LiveClips
from vmae_embed.query.rank import Ranked, at_once, rank
from vmae_embed.query.resolve import Resolver
from vmae_embed.query.spans import Span, Times, choose
from vmae_embed.query.wanted import Wanted
from vmae_embed.query.where import rows_where
from vmae_embed.records import Hit, QueryClip, clip_id

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder

    Query = str | Path | NDArray[np.floating[Any]]

# Queries that the library is looked through for at once, and vectors that wait for it.
_QUERIES_AT_ONCE = 256
_VECTORS_AT_ONCE = 1024

# A ranking begins a little deeper than k, as the query itself is dropped from it, and goes on in leaps.
_DEEPER = 4
_FIRST_WITHOUT_K = 256


class Hits(list[Hit]):
    """The hits of one search, best first.

    Attributes:
        queries: the clips that were searched for.
        among: how many clips were compared with: the library's, or those that fit a condition.
        metric: of the scores: ``cosine``, ``ip`` or ``l2``.
    """

    def __init__(self, hits: Iterable[Hit], queries: list[QueryClip], among: int, metric: str) -> None:
        super().__init__(hits)
        self.queries = queries
        self.among = among
        self.metric = metric


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
    return _answers(_Searcher(index, clips, among, wanted), resolver, iter(queries))


def _answers(searcher: _Searcher, resolver: Resolver, queries: Iterator[Query]) -> Iterator[Hits | QueryError]:
    waiting: list[Asked | QueryError] = []
    while block := list(islice(queries, _QUERIES_AT_ONCE)):
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


class _Searcher:
    """Answers queries that have been read."""

    def __init__(self, index: Index, clips: LiveClips, among: NDArray[np.int64], wanted: Wanted) -> None:
        self._index = index
        self._clips = clips
        self._among = among
        self._wanted = wanted

    def answer(self, waiting: Sequence[Asked | QueryError]) -> list[Hits | QueryError]:
        """Answer queries together; those that could not be read stay as they are."""
        asked = [one for one in waiting if isinstance(one, Asked)]
        hits = iter(self._search(asked))
        return [next(hits) if isinstance(one, Asked) else one for one in waiting]

    def _search(self, asked: list[Asked]) -> list[Hits]:
        if self._wanted.combine == "mean":
            asked = [one.averaged(self._index.metric) for one in asked]
        answers = [Hits([], one.clips, len(self._among), self._index.metric) for one in asked]
        left = list(range(len(asked))) if len(self._among) else []
        k = self._wanted.k
        depth = k + _DEEPER if k is not None else _FIRST_WITHOUT_K
        while left:
            depth = min(depth, len(self._among))
            short: list[int] = []
            for start in range(0, len(left), at_once(depth)):
                group = left[start : start + at_once(depth)]
                for i, hits in zip(group, self._look([asked[i] for i in group], depth), strict=True):
                    if hits is None:
                        short.append(i)
                    else:
                        answers[i].extend(hits)
            left, depth = short, depth * 4
        return answers

    def _look(self, asked: list[Asked], depth: int) -> list[list[Hit] | None]:
        """Give each query its hits; None where they are not all among its nearest."""
        # Asked for all there is, an index may leave out what it never looks at.
        exact = self._wanted.exact or depth == len(self._among)
        ranked = rank(self._index, asked, depth, among=self._among, exact=exact)
        rows, places = np.unique(np.concatenate([one.rows for one in ranked]), return_inverse=True)
        table = self._clips.take(rows, ["video_id", "start_s", "end_s"])
        videos = table["video_id"].combine_chunks().dictionary_encode()
        codes = {name: code for code, name in enumerate(videos.dictionary.to_pylist())}
        columns = [videos.indices.to_numpy(), *(table[name].to_numpy() for name in ("start_s", "end_s"))]
        chosen: list[list[Span] | None] = []
        ends = np.cumsum([len(one.rows) for one in ranked])
        for one, order, mine in zip(asked, ranked, np.split(places, ends[:-1]), strict=True):
            own = np.array([codes[name] for name in one.video_ids if name in codes], dtype=np.int64)
            times = Times(*(column[mine] for column in columns))
            spans, are_all = choose(one, own, order, times, self._wanted)
            chosen.append(spans if are_all else None)
        return self._hits(asked, ranked, chosen)

    def _hits(
        self, asked: list[Asked], ranked: list[Ranked], chosen: list[list[Span] | None]
    ) -> list[list[Hit] | None]:
        """Say of each span what the library knows of its best clip."""
        rows = [
            one.rows[[span.best for span in spans]]
            for one, spans in zip(ranked, chosen, strict=True)
            if spans is not None
        ]
        facts = iter(self._clips.take(np.concatenate([np.empty(0, np.int64), *rows])).to_pylist())
        carried = list(self._index.library.config.columns)
        return [
            None
            if spans is None
            else [
                _hit(number, one, order, span, clip, carried)
                for number, (span, clip) in enumerate(zip(spans, facts, strict=False), start=1)
            ]
            for one, order, spans in zip(asked, ranked, chosen, strict=True)
        ]


def _hit(number: int, asked: Asked, ranked: Ranked, span: Span, clip: dict[str, Any], carried: list[str]) -> Hit:
    is_merged = span.clips > 1
    return Hit(
        rank=number,
        score=float(ranked.scores[span.best]),
        clip_id=clip_id(clip["video_id"], span.start_s, span.end_s) if is_merged else clip["clip_id"],
        video_id=clip["video_id"],
        start_s=span.start_s if is_merged else clip["start_s"],
        end_s=span.end_s if is_merged else clip["end_s"],
        path=clip["path"],
        query=asked.query_of(int(ranked.vectors[span.best])),
        fingerprint=clip["fingerprint"],
        clips=span.clips,
        columns={name: clip[name] for name in carried if name in clip},
    )
