"""Queries as they are given, to what is searched for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import QueryError
from vmae_embed.index import Index
from vmae_embed.query.arrays import from_array, load_array
from vmae_embed.query.asked import Asked
from vmae_embed.query.live import LiveClips
from vmae_embed.records import QueryClip, clip_id, fingerprint, split_fragment

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder
    from vmae_embed.query.embed import FileEmbedder

_QUERY_CLIP = ("clip_id", "path", "start_s", "end_s", "fingerprint")
_FACTS = (*_QUERY_CLIP, "video_id")


class Resolver:
    """Reads queries; one for a whole batch of them, so that a model is loaded once, and only where needed.

    Args:
        index: that is searched.
        clips: of it.
        encoder: that embeds files, or a function that loads one; None loads the library's own.
        decoder: one of `vmae_embed.decode.DECODERS`.
    """

    def __init__(
        self, index: Index, clips: LiveClips, encoder: Encoder | Callable[[], Encoder] | None, decoder: str
    ) -> None:
        self._index = index
        self._clips = clips
        self._encoder = encoder
        self._decoder = decoder

    def resolve(self, queries: Sequence[str | Path | NDArray[Any]]) -> Iterator[Asked | QueryError]:
        """Read some queries, in their order; the library is looked through once for all of them.

        Yields:
            What is searched for, or why that cannot be told.

        Raises:
            IdentityMismatch: the encoder is not the library's.
            CheckpointError: the library's checkpoint cannot be loaded.
        """
        held = _Held(self._clips, [str(query) for query in queries if not isinstance(query, np.ndarray)])
        for query in queries:
            try:
                if isinstance(query, np.ndarray):
                    yield from_array(query, "vector", self._index.library.width)
                else:
                    yield self._read(str(query), held)
            except QueryError as error:
                yield error

    def _read(self, text: str, held: _Held) -> Asked:
        if (rows := held.clips.get(text)) is not None:
            return self._of_moment(text, rows, held.facts(rows))
        if text.lower().endswith(".npy"):
            return from_array(load_array(text), Path(text).name, self._index.library.width)
        name, start_s, end_s = (text, None, None) if os.path.isfile(text) else split_fragment(text)
        path = os.path.abspath(os.path.expanduser(name))
        if os.path.isfile(path):
            rows = self._clips.of_file(path)
            facts = held.facts(rows)
            status = os.stat(path)
            is_current = fingerprint(status.st_size, status.st_mtime_ns) in facts["fingerprint"]
        else:
            rows = held.videos.get(name, np.empty(0, np.int64))
            if not len(rows):
                raise self._unknown(text, name, path, start_s)
            facts = held.facts(rows)
            path = facts["path"][0]
            is_current = True
        video_ids = frozenset(facts["video_id"])
        if is_current and start_s is None:
            return Asked(_shown(text), _clips_of(facts), self._index.vectors(rows), rows, video_ids)
        if is_current and start_s is not None and end_s is not None:
            ids = [clip_id(video_id, start_s, end_s) for video_id in sorted(video_ids)]
            if same := self._clips.find("clip_id", ids):
                rows = next(iter(same.values()))
                return self._of_moment(text, rows, held.facts(rows), video_ids)
        clips, vectors = self._embedder.embed(name, path, start_s, end_s)
        moment = (clips[0].start_s, clips[-1].end_s)
        return Asked(_shown(text), clips, vectors, np.empty(0, np.int64), video_ids, *moment, embedded=True)

    def _of_moment(
        self,
        text: str,
        rows: NDArray[np.int64],
        facts: Mapping[str, list[Any]],
        video_ids: frozenset[str] = frozenset(),
    ) -> Asked:
        """A clip of the library; what overlaps it is itself, in whichever of its videos."""
        clips = _clips_of(facts)
        videos = video_ids | set(facts["video_id"])
        return Asked(_shown(text), clips, self._index.vectors(rows), rows, videos, clips[0].start_s, clips[0].end_s)

    def _unknown(self, text: str, name: str, path: str, start_s: float | None) -> QueryError:
        if name and os.path.isdir(path):
            return QueryError(f"{text}: a folder; search for one video, or a moment of it")
        if start_s is None and "#t=" in text:
            return QueryError(f"{text}: not a moment; write it as {text.partition('#t=')[0]}#t=3,5, in seconds")
        return QueryError(
            f"{text}: neither a file nor a clip or video of the library, whose clip ids look like {self._clips.example}"
        )

    @cached_property
    def _embedder(self) -> FileEmbedder:
        # Imported only for a file: it brings torch and FFmpeg.
        from vmae_embed.query.embed import FileEmbedder

        return FileEmbedder(self._index.library, self._encoder, self._decoder)


class _Held:
    """What the library holds of some queries, looked up for all of them at once.

    Attributes:
        clips: rows of the queries that are clip ids.
        videos: rows of the videos that the others name.
    """

    def __init__(self, clips: LiveClips, texts: list[str]) -> None:
        self._live = clips
        self.clips = clips.find("clip_id", texts)
        others = [text for text in texts if text not in self.clips]
        self.videos = clips.find("video_id", [*others, *(split_fragment(text)[0] for text in others)])
        parts = [np.empty(0, np.int64), *self.clips.values(), *self.videos.values()]
        self._rows = np.unique(np.concatenate(parts))
        self._table = clips.take(self._rows, _FACTS)

    def facts(self, rows: NDArray[np.int64]) -> Mapping[str, list[Any]]:
        """What the index's table says of some rows, by column."""
        places = np.searchsorted(self._rows, rows)
        if len(self._rows) and np.array_equal(self._rows.take(places, mode="clip"), rows):
            columns: dict[str, list[Any]] = self._table.take(pa.array(places)).to_pydict()
        else:
            columns = self._live.take(rows, _FACTS).to_pydict()
        return columns


def _clips_of(facts: Mapping[str, list[Any]]) -> list[QueryClip]:
    return [QueryClip(*values) for values in zip(*(facts[name] for name in _QUERY_CLIP), strict=True)]


def _shown(text: str) -> str:
    """A name that output in UTF-8 can hold, as a file's need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
