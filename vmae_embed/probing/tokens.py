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
from vmae_embed.library import Library, Tokens
from vmae_embed.probing.rows import Rows
from vmae_embed.replay import Skipped, replay, sampling_of
from vmae_embed.views import Views

Observer = Callable[[str, int, int], None]


def stores_tokens(views: Views) -> bool:
    """Whether all tokens are there."""
    return all(library.config.tokens is not None for library in views.libraries)


def bytes_of_tokens(rows: Rows, encoder: Encoder) -> int:
    """Room that the tokens of clips take on disk: float16."""
    return len(rows.truth) * encoder.tokens * encoder.width * 2


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
    parts, skipped = [], []
    for number, (library, clips) in enumerate(_by_view(views, rows)):
        of_view = library.config.preprocessing
        cropping = encoder if of_view is None else encoder.cropping_at(of_view.crop_at)
        tokens, left_out = _compute(library, clips, cropping, folder / f"{number}.npy", observe)
        parts.append(tokens)
        skipped.append(left_out)
    several = [one for left_out in skipped for one in left_out if one is not None]
    kept = np.flatnonzero([one is None for left_out in skipped for one in left_out])
    if not len(kept):
        raise ProbeError(
            f"{views.path}: none of {len(rows.truth):,} clips could be decoded again; the first: {several[0].reason}"
        )
    whole = replace(rows, tokens=Tokens.join(parts))
    return (whole.take(kept) if several else whole), several


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
    library: Library, table: pa.Table, encoder: Encoder, path: Path, observe: Observer | None
) -> tuple[Tokens, Sequence[Skipped | None]]:
    """Tokens of each clip, and why it has none."""
    library.config.check_comparable(str(library.path), encoder.identity, encoder.preprocessing)
    sampling = sampling_of(library, str(encoder.identity["checkpoint"]), encoder.frames)
    clips = table.to_pylist()
    order = sorted(range(len(clips)), key=lambda row: (clips[row]["path"], clips[row]["start_s"]))
    place = {clips[row]["clip_id"]: row for row in order}
    shape = (len(clips), encoder.tokens, encoder.width)
    computed = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    outcomes: dict[str, Skipped | None] = {}
    batch: dict[int, NDArray[np.uint8]] = {}

    def encode() -> None:
        if batch:
            found = encoder.submit(np.stack(list(batch.values())), with_tokens=True).result()
            computed[list(batch)] = found[:, 1:]
            batch.clear()

    again = replay(
        [clips[row] for row in order], sampling, encoder.preprocessing, exact_pixels=library.config.exact_pixels
    )
    for row, frames in again:
        if isinstance(frames, Skipped):
            outcomes[row["clip_id"]] = frames
        else:
            outcomes[row["clip_id"]] = None
            batch[place[row["clip_id"]]] = frames
            if len(batch) == encoder.batch_size:
                encode()
        if observe is not None:
            observe("computing tokens", len(outcomes), len(clips))
    encode()
    computed.flush()
    return Tokens([(path, len(clips))], shape[1:]), [outcomes[clip["clip_id"]] for clip in clips]
