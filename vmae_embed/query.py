"""Search: a file, a moment of one, a clip of the library or a vector, to its nearest clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vmae_embed.decode import check_decoder, cropping, decode_clips
from vmae_embed.errors import DecodeError, QueryError, UsageError
from vmae_embed.index import Index
from vmae_embed.records import ClipSpan, FrameBatch, Hit, QueryClip, clip_id, fingerprint, split_fragment
from vmae_embed.sampling import plan_spans

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder

GROUPINGS = ("clip", "video")


class Hits(list[Hit]):
    """The hits of one search, best first.

    Attributes:
        queries: the clips that were searched for.
    """

    def __init__(self, hits: list[Hit], queries: list[QueryClip]) -> None:
        super().__init__(hits)
        self.queries = queries


@dataclass(frozen=True)
class _Query:
    """What is searched for.

    Attributes:
        clips: Q of them.
        vectors: ``(Q, D)``.
        video_ids: of the library's videos that it is part of; one file may be in it under several.
        start_s: where in that video it begins, in seconds.
        end_s: where it ends.
    """

    clips: list[QueryClip]
    vectors: NDArray[np.float32]
    video_ids: frozenset[str] = frozenset()
    start_s: float = 0.0
    end_s: float = float("inf")


def search(
    index: Index,
    query: str | Path | NDArray[np.floating[Any]],
    *,
    encoder: Encoder | Callable[[], Encoder] | None = None,
    k: int = 10,
    group_by: str = "clip",
    include_self: bool = False,
    exact: bool = False,
    decoder: str = "auto",
) -> Hits:
    """Find the clips that look most like a query.

    Args:
        index: of a library.
        query: a video file (``clip.mp4``), a moment of one (``clip.mp4#t=3,5``), a clip or video id
            of the library, a ``.npy`` file, or an array ``(D,)`` or ``(Q, D)``. Of several query
            clips, each hit is scored by the nearest.
        encoder: that embeds a file, or a function that loads one; None loads the library's own
            checkpoint. Not needed for what the library already holds.
        k: how many hits.
        group_by: ``clip``, or ``video`` for the best clip of each video.
        include_self: also return the query's own clips: those of its video that overlap it.
        exact: compare with every clip instead of asking the index.
        decoder: one of `vmae_embed.decode.DECODERS`.

    Raises:
        QueryError: the query cannot be read, or names nothing.
        UsageError: another argument is wrong.
        IdentityMismatch: the encoder is not the library's.
        CheckpointError: the library's checkpoint cannot be loaded.
    """
    if k < 1:
        raise UsageError(f"k={k}: give at least 1")
    if group_by not in GROUPINGS:
        raise UsageError(f"group-by={group_by!r}: choose one of {', '.join(GROUPINGS)}")
    asked = _resolve(index, query, encoder, decoder)
    wanted = k
    while True:
        # Hits are dropped for being the query itself or of a video already found: ask for more then.
        ranked = _rank(*index.search(asked.vectors, wanted, exact=exact))
        hits = _keep(index, asked, ranked, k, group_by, include_self=include_self)
        if len(hits) >= k or wanted >= len(index):
            return Hits(hits, asked.clips)
        wanted = min(wanted * 4, len(index))


def _rank(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[tuple[float, int, int]]:
    """Merge the results of several query clips: (score, row, query clip), each row once, best first."""
    queries = np.repeat(np.arange(len(rows)), rows.shape[1])
    order = np.lexsort((rows.ravel(), -scores.ravel()))
    seen: set[int] = set()
    for place in order:
        row = int(rows.ravel()[place])
        if row not in seen:
            seen.add(row)
            yield float(scores.ravel()[place]), row, int(queries[place])


def _keep(
    index: Index,
    asked: _Query,
    ranked: Iterator[tuple[float, int, int]],
    k: int,
    group_by: str,
    *,
    include_self: bool,
) -> list[Hit]:
    hits: list[Hit] = []
    videos: set[str] = set()
    carried = list(index.library.config.columns)
    for score, row, query in ranked:
        clip = {name: index.clips[name][row].as_py() for name in index.clips.column_names}
        video = clip["video_id"]
        is_self = video in asked.video_ids and clip["start_s"] < asked.end_s and clip["end_s"] > asked.start_s
        if (is_self and not include_self) or (group_by == "video" and video in videos):
            continue
        videos.add(video)
        hits.append(
            Hit(
                rank=len(hits) + 1,
                score=score,
                clip_id=clip["clip_id"],
                video_id=video,
                start_s=clip["start_s"],
                end_s=clip["end_s"],
                path=clip["path"],
                query=asked.clips[query].name,
                fingerprint=clip["fingerprint"],
                columns={name: clip[name] for name in carried if name in clip},
            )
        )
        if len(hits) == k:
            break
    return hits


def _resolve(
    index: Index,
    query: str | Path | NDArray[np.floating[Any]],
    encoder: Encoder | Callable[[], Encoder] | None,
    decoder: str,
) -> _Query:
    if isinstance(query, np.ndarray):
        return _from_array(index, query, "vector")
    text = str(query)
    if text.lower().endswith(".npy"):
        return _from_array(index, load_array(text), Path(text).name)
    rows = _rows(index, "clip_id", text)
    if len(rows):
        return _from_rows(index, rows, frozenset(_values(index, "video_id", rows)))
    name, start_s, end_s = (text, None, None) if os.path.isfile(text) else split_fragment(text)
    path = os.path.abspath(os.path.expanduser(name))
    if os.path.isfile(path):
        known = _rows_of_file(index, path)
        status = os.stat(path)
        is_current = fingerprint(status.st_size, status.st_mtime_ns) in _values(index, "fingerprint", known)
    else:
        known = _rows(index, "video_id", name)
        if name and not len(known) and os.path.isdir(path):
            raise QueryError(f"{text}: a folder; search for one video, or a moment of it")
        if not len(known) and start_s is None and "#t=" in text:
            raise QueryError(f"{text}: not a moment; write it as {text.partition('#t=')[0]}#t=3,5, in seconds")
        if not len(known):
            raise QueryError(
                f"{text}: neither a file nor a clip or video of the library, "
                f"whose clip ids look like {index.clips['clip_id'][0]}"
            )
        path = _values(index, "path", known)[0]
        is_current = True
    video_ids = frozenset(_values(index, "video_id", known))
    if is_current and start_s is None:
        return _from_rows(index, known, video_ids, whole_video=True)
    if is_current and start_s is not None and end_s is not None:
        same = [_rows(index, "clip_id", clip_id(video_id, start_s, end_s)) for video_id in sorted(video_ids)]
        if len(rows := np.concatenate(same)):
            return _from_rows(index, rows[:1], video_ids)
    return _from_file(index, name, path, start_s, end_s, video_ids, encoder, decoder)


def _rows_of_file(index: Index, path: str) -> NDArray[np.int64]:
    """Rows of a file's clips, by whatever path it was extracted: links lead to it, too."""
    real = os.path.realpath(path)
    names = {os.path.basename(path), os.path.basename(real)}
    paths = index.clips["path"].unique().to_pylist()
    same = [known for known in paths if os.path.basename(known) in names and os.path.realpath(known) == real]
    return np.flatnonzero(np.asarray(pc.is_in(index.clips["path"], pa.array(same, pa.string()))))


def _from_file(
    index: Index,
    name: str,
    path: str,
    start_s: float | None,
    end_s: float | None,
    video_ids: frozenset[str],
    encoder: Encoder | Callable[[], Encoder] | None,
    decoder: str,
) -> _Query:
    config = index.library.config
    if config.sampling is None or config.preprocessing is None:
        raise QueryError(f"{name}: {index.library.path} was imported; search it by a clip id or a .npy file")
    sampling, preprocessing = config.sampling, config.preprocessing
    if not os.path.isfile(path):
        raise QueryError(f"{name}: the library knows this video, but {path} is gone; ask for one of its clip ids")
    check_decoder(decoder)
    embedding = _Embedding(lambda: _load_encoder(index, encoder))
    try:
        for batch in decode_clips(
            path,
            lambda timeline: plan_spans(timeline, sampling, start_s=start_s, end_s=end_s),
            cropping(preprocessing, exact_pixels=config.exact_pixels),
            decoder=decoder,
            threads=0,
            on_timeline=lambda _: embedding.begin_anew(),
        ):
            embedding.add(batch)
    except DecodeError as error:
        raise QueryError(f"{name}: {error}") from error
    vectors = embedding.end()
    clips = [
        QueryClip(clip_id(name, span.start_s, span.end_s), path, span.start_s, span.end_s) for span in embedding.spans
    ]
    return _Query(clips, vectors, video_ids, clips[0].start_s, clips[-1].end_s)


class _Embedding:
    """Embeds clips as they come: of a long video, no more frames are held than one batch has."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._encoder: Encoder | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        self.spans: list[ClipSpan] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._frames: list[NDArray[np.uint8]] = []

    def add(self, batch: FrameBatch) -> None:
        # Loaded only now: a file that is no video is told at once.
        self._encoder = self._encoder or self._load()
        self.spans.append(batch.span)
        self._frames.append(batch.frames)
        if len(self._frames) == self._encoder.batch_size:
            self._embed(self._encoder)

    def end(self) -> NDArray[np.float32]:
        if self._encoder is not None and self._frames:
            self._embed(self._encoder)
        return np.concatenate(self._vectors)

    def _embed(self, encoder: Encoder) -> None:
        self._vectors.append(encoder.encode_cropped(np.stack(self._frames)))
        self._frames.clear()


def _load_encoder(index: Index, encoder: Encoder | Callable[[], Encoder] | None) -> Encoder:
    from vmae_embed.encoder import Encoder

    if encoder is None:
        encoder = Encoder.from_identity(index.library.config.encoder)
    elif not isinstance(encoder, Encoder):
        encoder = encoder()
    index.library.check_comparable(encoder.identity, encoder.preprocessing)
    return encoder


def _from_rows(
    index: Index, rows: NDArray[np.int64], video_ids: frozenset[str], *, whole_video: bool = False
) -> _Query:
    columns = ("clip_id", "path", "start_s", "end_s", "fingerprint")
    clips = [QueryClip(*values) for values in zip(*(_values(index, name, rows) for name in columns), strict=True)]
    if whole_video:
        return _Query(clips, index.vectors(rows), video_ids)
    return _Query(clips, index.vectors(rows), video_ids, clips[0].start_s, clips[0].end_s)


def _from_array(index: Index, array: NDArray[np.floating[Any]], name: str) -> _Query:
    width = index.library.width
    vectors = array[None] if array.ndim == 1 else array
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors) or vectors.dtype.kind not in "fiu":
        raise QueryError(
            f"{name}: {array.dtype} of shape {array.shape}; "
            f"this library takes numbers of shape ({width},) or (Q, {width})"
        )
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise QueryError(f"{name}: holds numbers that are not finite")
    clips = [QueryClip(name if len(vectors) == 1 else f"{name}[{i}]") for i in range(len(vectors))]
    return _Query(clips, vectors)


def load_array(path: str) -> NDArray[Any]:
    """Read a ``.npy`` file.

    Raises:
        QueryError: there is none, or it holds no one array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise QueryError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise QueryError(f"{path}: not a NumPy array ({' '.join(str(error).split())})") from error
    if not isinstance(array, np.ndarray):
        raise QueryError(f"{path}: an archive of arrays; save one array with np.save")
    return array


def _rows(index: Index, column: str, value: str) -> NDArray[np.int64]:
    try:
        scalar = pa.scalar(value, pa.string())
    except (UnicodeEncodeError, pa.ArrowException):
        return np.empty(0, dtype=np.int64)
    matches: NDArray[np.int64] = np.flatnonzero(np.asarray(pc.equal(index.clips[column], scalar)))
    return matches


def _values(index: Index, column: str, rows: NDArray[np.int64]) -> list[Any]:
    values: list[Any] = index.clips[column].take(pa.array(rows)).to_pylist()
    return values
