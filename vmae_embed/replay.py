"""A library's clips, decoded again from the videos that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vmae_embed.decode import check_unchanged, cropping, decode_clips
from vmae_embed.decode.base import Transform
from vmae_embed.errors import DecodeError, LibraryError, UsageError
from vmae_embed.library import Library
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Timeline
from vmae_embed.sampling import Sampling, plan_spans

COLUMNS = ("clip_id", "video_id", "start_s", "end_s", "path", "fingerprint")
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A clip that could not be decoded again: where it stopped (``open``, ``timeline``, ``decode``), and why."""

    clip_id: str
    stage: str
    reason: str


def sampling_of(library: Library, name: str, frames: int) -> Sampling:
    """Return how a library's clips were cut, if a model called ``name`` that takes T ``frames`` can take them.

    Raises:
        LibraryError: its vectors were imported.
        UsageError: its clips have another number of frames.
    """
    sampling = library.config.sampling
    if sampling is None:
        raise LibraryError(
            f"{library.path}: its vectors were imported, so nothing says how frames were taken from its videos; "
            "give a library that `vmae-embed extract` made"
        )
    if sampling.frames != frames:
        raise UsageError(
            f"{library.path}: its clips have {sampling.frames} frames, {name} takes "
            f"{frames}; give a checkpoint for {sampling.frames}"
        )
    return sampling


def replay(
    rows: Sequence[Row], sampling: Sampling, preprocessing: Preprocessing, *, exact_pixels: bool
) -> Iterator[tuple[Row, NDArray[np.uint8] | Skipped]]:
    """Decode clips again, with the frames that were embedded, file by file in order of time.

    Args:
        rows: of `COLUMNS`, sorted by path and start.
        sampling: that the clips were cut by.
        preprocessing: resize and crop for this.
        exact_pixels: convert frames whole before they are resized.

    Yields:
        Each row with its frames ``(T, H, W, 3)`` uint8, or with why there are none. A file that is begun
        anew gives its clips again: of a row that comes twice, the last counts.
    """
    pixels = cropping(preprocessing, exact_pixels=exact_pixels)
    for path, of_file in groupby(rows, key=lambda row: row["path"]):
        yield from _replay_file(path, list(of_file), sampling, pixels)


def _replay_file(
    path: str, rows: list[Row], sampling: Sampling, pixels: Transform
) -> Iterator[tuple[Row, NDArray[np.uint8] | Skipped]]:
    done = 0

    def plan(timeline: Timeline) -> Iterator[ClipSpan]:
        for row in rows:
            yield next(plan_spans(timeline, sampling, start_s=row["start_s"], end_s=row["end_s"]))

    def begin(_: Timeline) -> None:
        nonlocal done
        done = 0

    try:
        check_unchanged(path, rows[0]["fingerprint"])
        for batch in decode_clips(path, plan, pixels, threads=0, on_timeline=begin):
            yield rows[done], batch.frames
            done += 1
    except DecodeError as error:
        for row in rows[done:]:
            yield row, Skipped(row["clip_id"], error.stage, str(error))
