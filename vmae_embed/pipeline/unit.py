"""A unit on its way from decoded clips to the rows of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.classifier import Classifier
from vmae_embed.library import LABEL_COLUMNS, Library, TokenSpool, clip_rows
from vmae_embed.records import ClipSpan, Failure, Timeline, Video


@dataclass
class VideoRows:
    """The clips of one video, and their embeddings as they come.

    Attributes:
        video: whose clips they are.
        timeline: of the video.
        spans: of its clips.
        embeddings: ``(D,)`` each.
        tokens: places of the clips' tokens in the unit's spool, where the library stores any.
        fits: whether all of its tokens are finite in float16.
    """

    video: Video
    timeline: Timeline
    spans: list[ClipSpan] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    fits: bool = True

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
        bytes: of the videos' files, as far as this batch covers them.
    """

    unit: UnitRows
    frames: NDArray[np.uint8]
    owners: list[VideoRows] = field(default_factory=list)
    is_last: bool = False
    bytes: int = 0


class UnitRows:
    """What a unit's shard will hold.

    Attributes:
        name: of the unit.
        spool: of its clips' tokens; None where the library stores none.
        finished: videos of which every clip has been decoded.
        failures: videos that failed.
        current: the video whose clips come now.
        batch: that they go to.
        covered: bytes of the current video's file that clips cover so far.
        due: bytes that the next batch covers.
    """

    def __init__(self, name: str, spool: TokenSpool | None) -> None:
        self.name = name
        self.spool = spool
        self.finished: list[VideoRows] = []
        self.failures: list[Failure] = []
        self.current: VideoRows | None = None
        self.batch: Batch | None = None
        self.covered = 0
        self.due = 0

    def cover(self, size: int) -> None:
        """The current video's clips cover so many bytes of its file by now."""
        self.due += max(size - self.covered, 0)
        self.covered = max(size, self.covered)

    def close_batch(self) -> Batch:
        """Take the batch, full or not; it covers what has been decoded since the last one."""
        batch, self.batch = self.batch or Batch(self, np.empty(0, np.uint8)), None
        batch.bytes, self.due = self.due, 0
        return batch

    def take(self, owners: list[VideoRows], encoded: NDArray[np.float32]) -> None:
        """Take what the encoder made of B clips; those of a video that failed or was begun anew go to no shard.

        Args:
            owners: of each clip.
            encoded: ``(B, D)``, or with tokens ``(B, 1 + N, D)``; see `vmae_embed.encoder.Encoder.submit`.

        Raises:
            LibraryError: tokens cannot be written.
        """
        if self.spool is None:
            for rows, embedding in zip(owners, encoded, strict=True):
                rows.embeddings.append(embedding)
            return
        places, fit = self.spool.append(encoded[:, 1:])
        embeddings = encoded[:, 0].copy()  # a view would keep the tokens in memory
        for rows, embedding, place, fits in zip(owners, embeddings, places, fit, strict=True):
            rows.embeddings.append(embedding)
            rows.tokens.append(place)
            rows.fits &= bool(fits)

    def commit(self, library: Library, classifier: Classifier | None) -> int:
        """Write the shard. A video whose embeddings or tokens are not finite is one more failure.

        Args:
            library: that it belongs to.
            classifier: that labels its clips; None where the library has no labels.

        Returns:
            How many clips it holds.

        Raises:
            LibraryError: it cannot be written.
        """
        schema = library.schema
        tables = [schema.empty_table()]
        sound = []
        for rows in self.finished:
            embeddings = np.stack(rows.embeddings)
            with np.errstate(over="ignore"):  # beyond float16: refused below
                stored = embeddings.astype(library.config.stored)
            if np.isfinite(stored).all() and rows.fits:
                labels = {} if classifier is None else _label(embeddings, classifier)
                tables.append(clip_rows(rows.video, rows.timeline, rows.spans, stored, schema, labels))
                sound.append(rows)
                continue
            video = rows.video
            reason = "its embeddings are not finite; try --dtype float32 and --store float32"
            if np.isfinite(stored).all():
                reason = "its tokens are not finite in float16; try --dtype float32, or a library without tokens"
            self.failures.append(Failure(video.id, video.path, "encode", reason, 0.0, video.fingerprint))
        self.finished = sound
        table = pa.concat_tables(tables)
        library.write_unit(self.name, table, self.failures, self.spool, [at for rows in sound for at in rows.tokens])
        return int(table.num_rows)


def _label(embeddings: NDArray[np.float32], classifier: Classifier) -> dict[str, list[Any]]:
    """The likeliest label of each clip, as the columns of `LABEL_COLUMNS`."""
    best = [classifier.best(row, 1)[0] for row in classifier.probabilities(embeddings)]
    return dict(zip(LABEL_COLUMNS, map(list, zip(*best, strict=True)), strict=True))
