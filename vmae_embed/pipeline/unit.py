"""A unit on its way from decoded clips to the rows of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.library import Library, clip_rows
from vmae_embed.records import ClipSpan, Failure, Timeline, Video


@dataclass
class VideoRows:
    """The clips of one video, and their embeddings as they come."""

    video: Video
    timeline: Timeline
    spans: list[ClipSpan] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)

    def share_decoded(self) -> float:
        """How much of the video its clips cover so far, from 0 to 1."""
        if not self.spans or not self.timeline.duration_s > 0:
            return 0.0
        return min((self.spans[-1].end_s - float(self.timeline.times_s[0])) / self.timeline.duration_s, 1.0)


@dataclass
class Batch:
    """Consecutive clips of one unit.

    Attributes:
        unit: they belong to.
        frames: ``(batch size, T, H, W, 3)`` uint8, of which the first ``len(owners)`` are set.
        owners: of each clip.
        is_last: of the unit.
    """

    unit: UnitRows
    frames: NDArray[np.uint8]
    owners: list[VideoRows] = field(default_factory=list)
    is_last: bool = False


class UnitRows:
    """What a unit's shard will hold.

    Attributes:
        name: of the unit.
        finished: videos of which every clip has been decoded.
        failures: videos that failed.
        current: the video whose clips come now.
        batch: that they go to.
        bytes_told: of the current video's file, as progress.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.finished: list[VideoRows] = []
        self.failures: list[Failure] = []
        self.current: VideoRows | None = None
        self.batch: Batch | None = None
        self.bytes_told = 0

    def commit(self, library: Library) -> tuple[int, tuple[Failure, ...]]:
        """Write the shard.

        Returns:
            How many clips it holds, and which videos' embeddings were not finite.

        Raises:
            LibraryError: it cannot be written.
        """
        schema = library.schema
        tables = [schema.empty_table()]
        broken = []
        for rows in self.finished:
            with np.errstate(over="ignore"):  # beyond float16: refused below
                embeddings = np.stack(rows.embeddings).astype(library.config.stored)
            if np.isfinite(embeddings).all():
                tables.append(clip_rows(rows.video, rows.timeline, rows.spans, embeddings, schema))
                continue
            video = rows.video
            reason = "its embeddings are not finite; try --dtype float32 and --store float32"
            broken.append(Failure(video.id, video.path, "encode", reason, 0.0, video.fingerprint))
        table = pa.concat_tables(tables)
        library.write_unit(self.name, table, [*self.failures, *broken])
        return table.num_rows, tuple(broken)
