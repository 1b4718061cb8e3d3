"""The tokens of clips, for probes that attend to them: as a library stores them, or computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vmae_embed.encoder import Encoder
from vmae_embed.errors import LibraryError, ProbeError
from vmae_embed.library import Library, Tokens, TokenSpool
from vmae_embed.probing.rows import Rows
from vmae_embed.replay import Skipped, replay, sampling_of
from vmae_embed.views import Views

Observer = Callable[[str, int, int], None]


def stores_tokens(views: Views) -> bool:
    """Whether all tokens are there."""
    return all(library.config.tokens is not None for library in views.libraries)


def with_stored_tokens(views: Views, rows: Rows) -> Rows:
    """Give clips the tokens that their libraries store; they stay on disk.

    Raises:
        LibraryError: a library stores none, or changed since the rows were read.
    """
    parts = [_stored(library, clips) for library, clips in _by_view(views, rows)]
    return replace(rows, tokens=Tokens.join(parts))


def with_tokens(
    views: Views, rows: Rows, encoder: Encoder, folder: Path, *, observe: Observer | None = None
) -> tuple[Rows, list[Skipped]]:
    """Decode and encode clips again, to give them their tokens.

    Args:
        views: of the rows.
        rows: of clips.
        encoder: that the libraries were made with.
        folder: the tokens are written to files in it, which the rows then read.
        observe: called with a name, how many clips are done, and of how many, of one view after the other.

    Returns:
        The rows with their tokens, which stay on disk, without those clips whose videos are gone,
        changed or damaged; and these.

    Raises:
        IdentityMismatch: the encoder is another.
        LibraryError: the library's vectors were imported.
        ProbeError: no clip could be decoded again.
    """
    parts: list[Tokens] = []
    outcomes: list[Skipped | None] = []
    for number, (library, clips) in enumerate(_by_view(views, rows)):
        cropping = encoder.cropping_as(library.config.preprocessing)
        tokens, skipped = _compute(
            library, clips, cropping, TokenSpool(folder, str(number), encoder.token_shape), observe
        )
        parts.append(tokens)
        outcomes += skipped
    several = [one for one in outcomes if one is not None]
    kept = np.flatnonzero([one is None for one in outcomes])
    if not len(kept):
        raise ProbeError(
            f"{views.path}: none of {len(rows.truth):,} clips could be decoded again; the first: {several[0].reason}"
        )
    return replace(rows.take(kept) if several else rows, tokens=Tokens.join(parts)), several


def _by_view(views: Views, rows: Rows) -> list[tuple[Library, pa.Table]]:
    """Rows are sorted by view: see `vmae_embed.probing.rows.labelled_views`."""
    if len(views.libraries) == 1:
        return [(views.libraries[0], rows.clips)]
    return [(lib, rows.clips.filter(pc.equal(rows.clips["view"], n))) for n, lib in enumerate(views.libraries)]


def _stored(library: Library, clips: pa.Table) -> Tokens:
    place = {clip: row for row, clip in enumerate(library.column("clip_id"))}
    tokens, asked = library.tokens(), clips["clip_id"].to_pylist()
    if len(tokens) != len(place) or not place.keys() >= set(asked):
        raise LibraryError(f"{library.path}: changed while it was read; run the same command again")
    return tokens[[place[clip] for clip in asked]]


def _compute(
    library: Library, table: pa.Table, encoder: Encoder, spool: TokenSpool, observe: Observer | None
) -> tuple[Tokens, Sequence[Skipped | None]]:
    """Tokens of clips, but for those of which is said why they have none."""
    library.config.check_comparable(str(library.path), encoder.identity, encoder.preprocessing)
    sampling = sampling_of(library, str(encoder.identity["checkpoint"]), encoder.frames)
    clips = table.to_pylist()
    order = sorted(clips, key=lambda clip: (clip["path"], clip["start_s"]))
    places: dict[str, int] = {}
    outcomes: dict[str, Skipped | None] = {}
    batch: list[tuple[str, NDArray[np.uint8]]] = []

    def encode() -> None:
        if batch:
            found = encoder.submit(np.stack([frames for _, frames in batch]), with_tokens=True).result()
            for (clip, _), place, is_finite in zip(batch, *spool.append(found[:, 1:]), strict=True):
                places[clip] = place
                if not is_finite:
                    outcomes[clip] = Skipped(clip, "encode", "its tokens are not finite in float16")
            batch.clear()

    again = replay(order, sampling, encoder.preprocessing, exact_pixels=library.config.exact_pixels)
    for row, frames in again:
        clip = row["clip_id"]
        outcomes[clip] = frames if isinstance(frames, Skipped) else None
        if not isinstance(frames, Skipped):
            batch.append((clip, frames))
            if len(batch) == encoder.batch_size:
                encode()
        if observe is not None:
            observe("computing tokens", len(outcomes), len(clips))
    encode()
    # In the order of the rows, whatever the order on disk.
    kept = [places[clip["clip_id"]] for clip in clips if outcomes[clip["clip_id"]] is None]
    on_disk = sorted(kept)
    files = [(spool.commit(on_disk), len(on_disk))] if kept else []
    tokens = Tokens(files, encoder.token_shape, np.searchsorted(on_disk, kept))
    return tokens, [outcomes[clip["clip_id"]] for clip in clips]
