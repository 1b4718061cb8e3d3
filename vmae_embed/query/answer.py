"""Hits for queries that have been read: as deep a ranking as it takes, and what the library says of the chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import QueryError
from vmae_embed.index import Index
from vmae_embed.query.asked import Asked
from vmae_embed.query.live import LiveClips
from vmae_embed.query.rank import Ranked, at_once, rank
from vmae_embed.query.spans import Span, Times, choose
from vmae_embed.query.wanted import Wanted
from vmae_embed.records import Hit, QueryClip, clip_id

# A ranking begins k deep, as `evaluation` measures it, and goes on in leaps where the query itself is dropped from it.
_FIRST_WITHOUT_K = 256
_LEAP = 4


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


class Searcher:
    """Answers queries that have been read.

    Args:
        index: to search.
        clips: of it.
        among: ascending rows that may be found.
        wanted: which hits.
    """

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
        depth = k if k is not None else _FIRST_WITHOUT_K
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
            left, depth = short, depth * _LEAP
        return answers

    def _look(self, asked: list[Asked], depth: int) -> list[list[Hit] | None]:
        """Give each query its hits; None where they are not all among its nearest."""
        # Where all there is is wanted, no index is faster, and none may leave anything out.
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
