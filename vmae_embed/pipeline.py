"""One device's work: units in, shards out.

Decoding processes fill batches in shared memory while the encoder runs on earlier ones. A batch
holds consecutive clips of one unit, so a unit's vectors do not depend on what ran beside it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmae_embed.library import Library, clip_rows
from vmae_embed.plan import Unit
from vmae_embed.records import ClipSpan, Failure, Timeline, Video
from vmae_embed.workers import (
    ClipDecoded,
    DecodePool,
    UnitDone,
    VideoDone,
    VideoFailed,
    VideoStarted,
    WorkerConfig,
)

# Clips of shared memory for each decoding process: one being written, the others in the pipe.
SLOTS = 4


class ClipEncoder(Protocol):
    """What the pipeline needs of an encoder."""

    batch_size: int
    width: int

    def encode_cropped(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(B, T, H, W, 3)`` uint8 to ``(B, D)`` float32."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What has happened since the last one.

    Attributes:
        embedded: clips that have been through the encoder.
        committed: clips that now lie in a shard.
        videos: done, or failed.
        failures: of them.
    """

    embedded: int = 0
    committed: int = 0
    videos: int = 0
    failures: tuple[Failure, ...] = ()


@dataclass
class _VideoRows:
    video: Video
    timeline: Timeline
    spans: list[ClipSpan] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)


class _Filling:
    """A unit on its way to a shard."""

    def __init__(self, encoder: ClipEncoder, config: WorkerConfig) -> None:
        self._encoder = encoder
        self._batch = np.empty((encoder.batch_size, *config.slot_shape), dtype=np.uint8)
        self._owners: list[_VideoRows] = []
        self.current: _VideoRows | None = None
        self.finished: list[_VideoRows] = []
        self.failures: list[Failure] = []

    def add(self, span: ClipSpan, frames: NDArray[np.uint8]) -> int:
        """Take a clip; return how many were embedded for it."""
        assert self.current is not None
        self.current.spans.append(span)
        self._batch[len(self._owners)] = frames
        self._owners.append(self.current)
        return self.flush() if len(self._owners) == len(self._batch) else 0

    def flush(self) -> int:
        """Embed what has been collected, a whole batch or not."""
        count = len(self._owners)
        if count:
            embeddings = self._encoder.encode_cropped(self._batch[:count])
            # A clip of a video that failed or was begun anew goes to rows that nobody keeps.
            for rows, embedding in zip(self._owners, embeddings, strict=True):
                rows.embeddings.append(embedding)
            self._owners.clear()
        return count


def run_units(
    units: Iterable[Unit], encoder: ClipEncoder, library: Library, config: WorkerConfig, *, workers: int
) -> Generator[Progress, None, None]:
    """Extract units into a library, each committed as soon as it is complete.

    Args:
        units: to extract.
        encoder: whose embeddings the library holds.
        library: locked by the caller.
        config: of the decoding processes.
        workers: how many of them.

    Yields:
        What happened, as it happens.

    Raises:
        LibraryError: a shard cannot be written.
        VmaeEmbedError: no decoding process can be started.
    """
    filling: dict[str, _Filling] = {}
    with DecodePool(config, workers) as pool:
        for event in pool.decode((unit.name, unit.videos) for unit in units):
            if event.unit not in filling:
                filling[event.unit] = _Filling(encoder, config)
            unit = filling[event.unit]
            if isinstance(event, VideoStarted):
                unit.current = _VideoRows(event.video, event.timeline)
            elif isinstance(event, ClipDecoded):
                if embedded := unit.add(event.span, event.frames):
                    yield Progress(embedded=embedded)
            elif isinstance(event, VideoDone):
                assert unit.current is not None
                unit.finished.append(unit.current)
                yield Progress(videos=1)
            elif isinstance(event, VideoFailed):
                unit.failures.append(event.failure)
                yield Progress(videos=1, failures=(event.failure,))
            elif isinstance(event, UnitDone):
                yield Progress(embedded=unit.flush())
                yield from _commit(event.unit, filling.pop(event.unit), library)


def _commit(name: str, unit: _Filling, library: Library) -> Iterator[Progress]:
    import pyarrow as pa

    schema = library.schema
    tables = [schema.empty_table()]
    for rows in unit.finished:
        with np.errstate(over="ignore"):  # beyond float16: refused below
            embeddings = np.stack(rows.embeddings).astype(library.config.stored)
        if not np.isfinite(embeddings).all():
            video = rows.video
            reason = "its embeddings are not finite; try --dtype float32 and --store float32"
            unit.failures.append(Failure(video.id, video.path, "encode", reason, 0.0, video.fingerprint))
            yield Progress(failures=(unit.failures[-1],))
            continue
        tables.append(clip_rows(rows.video, rows.timeline, rows.spans, embeddings, schema))
    table = pa.concat_tables(tables)
    library.write_unit(name, table, unit.failures)
    yield Progress(committed=table.num_rows)
