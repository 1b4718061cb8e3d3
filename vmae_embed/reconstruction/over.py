"""The losses of a library's clips, decoded again from their videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmae_embed.draws import sample_rows
from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.library import Library
from vmae_embed.reconstruction.model import Reconstructor
from vmae_embed.replay import COLUMNS, Skipped, replay, sampling_of

PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class ClipLoss:
    """What was measured of a clip; `Reconstruction` says what loss and baseline are."""

    clip_id: str
    path: str
    loss: float
    baseline: float


@dataclass(frozen=True)
class LibraryLosses:
    """Losses of clips drawn from a library.

    Attributes:
        measured: at least one, from the easiest (the lowest loss) to the hardest.
        skipped: clips that were drawn as well, but could not be decoded again.
        videos: how many those that were measured are of.
        among: clips that the library holds.
    """

    measured: tuple[ClipLoss, ...]
    skipped: tuple[Skipped, ...]
    videos: int
    among: int

    @property
    def losses(self) -> NDArray[np.float64]:
        """Of `measured`, ascending."""
        return np.array([clip.loss for clip in self.measured])

    @property
    def percentiles(self) -> dict[int, float]:
        """Losses at `PERCENTILES`, between two clips by interpolation."""
        return dict(zip(PERCENTILES, np.percentile(self.losses, PERCENTILES).tolist(), strict=True))

    def rank(self, loss: float) -> float:
        """Return the percentage of the clips whose loss is lower; of equal ones, half count."""
        losses = self.losses
        return float(100 * ((losses < loss).mean() + (losses == loss).mean() / 2))


def measure_library(
    library: Library,
    reconstructor: Reconstructor,
    mask: NDArray[np.bool_],
    *,
    clips: int = 256,
    seed: int = 0,
    observe: Callable[[int, int], None] | None = None,
) -> LibraryLosses:
    """Measure the losses of clips of a library, drawn one a video first.

    Their frames are those that were embedded; they come from the files that the library names,
    which must not have changed. A clip that cannot be had again is skipped, and told.

    Args:
        library: whose clips are measured; any encoder may have made it.
        reconstructor: the model.
        mask: the same for all clips, so that it does not tell them apart.
        clips: how many; all if there are fewer.
        seed: of the draw, from 0 on.
        observe: told how many of the drawn clips are done.

    Raises:
        UsageError: fewer than one clip is asked for, or the model takes clips of other lengths.
        LibraryError: the library is empty, was imported, or none of the drawn clips can be decoded.
    """
    if clips < 1:
        raise UsageError(f"clips={clips}: give a whole number from 1 on")
    sampling = sampling_of(library, reconstructor.name, reconstructor.frames)
    table = library.table(list(COLUMNS))
    if not table.num_rows:
        raise LibraryError(f"{library.path}: holds no clips to reconstruct")
    codes = table["video_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    rows = sample_rows(np.arange(table.num_rows), codes, clips, np.random.default_rng(seed))
    drawn = sorted(table.take(rows).to_pylist(), key=lambda row: (row["path"], row["start_s"]))
    outcomes: dict[str, ClipLoss | Skipped] = {}
    for row, frames in replay(drawn, sampling, reconstructor.preprocessing, exact_pixels=True):
        if isinstance(frames, Skipped):
            outcomes[row["clip_id"]] = frames
        else:
            made = reconstructor.reconstruct(frames, mask)
            outcomes[row["clip_id"]] = ClipLoss(row["clip_id"], row["path"], made.loss, made.baseline)
        if observe is not None:
            observe(len(outcomes), len(drawn))
    measured = [found for found in outcomes.values() if isinstance(found, ClipLoss)]
    skipped = [found for found in outcomes.values() if isinstance(found, Skipped)]
    if not measured:
        raise LibraryError(
            f"{library.path}: none of {len(drawn):,} clips could be decoded again; the first: {skipped[0].reason}"
        )
    videos = len({clip.path for clip in measured})
    return LibraryLosses(tuple(sorted(measured, key=lambda clip: clip.loss)), tuple(skipped), videos, table.num_rows)
