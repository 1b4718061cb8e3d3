"""The tokens of a library's clips, for probes that attend to them: as it stores them, or computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vmae_embed.encoder import Encoder
from vmae_embed.errors import LibraryError, ProbeError
from vmae_embed.library import Library, Tokens
from vmae_embed.probing.rows import Rows
from vmae_embed.replay import Skipped, replay, sampling_of


def with_stored_tokens(library: Library, rows: Rows) -> Rows:
    """Give labelled clips the tokens that their library stores; they stay on disk.

    Raises:
        LibraryError: it stores none, or changed since the rows were read.
    """
    place = {clip: row for row, clip in enumerate(library.column("clip_id"))}
    tokens = library.tokens()
    clips = rows.clips["clip_id"].to_pylist()
    if len(tokens) != len(place) or not place.keys() >= set(clips):
        raise LibraryError(f"{library.path}: changed while it was read; run the same command again")
    return replace(rows, tokens=tokens[[place[clip] for clip in clips]])


def bytes_of_tokens(rows: Rows, encoder: Encoder) -> int:
    """Room that the tokens of labelled clips take on disk: float16."""
    return len(rows.truth) * encoder.tokens * encoder.width * 2


def with_tokens(
    library: Library,
    rows: Rows,
    encoder: Encoder,
    folder: Path,
    *,
    observe: Callable[[str, int, int], None] | None = None,
) -> tuple[Rows, list[Skipped]]:
    """Decode and encode labelled clips again, to give them their tokens.

    Args:
        library: of the rows.
        rows: labelled clips.
        encoder: that the library was made with.
        folder: the tokens are written to a file in it, which the rows then read.
        observe: called with a name, how many clips are done, and of how many.

    Returns:
        The rows with their tokens, which stay on disk, without those clips whose videos are gone,
        changed or damaged; and these.

    Raises:
        IdentityMismatch: the encoder is another.
        LibraryError: the library's vectors were imported.
        ProbeError: no clip could be decoded again.
    """
    library.config.check_comparable(str(library.path), encoder.identity, encoder.preprocessing)
    sampling = sampling_of(library, str(encoder.identity["checkpoint"]), encoder.frames)
    clips = rows.clips.to_pylist()
    order = sorted(range(len(clips)), key=lambda row: (clips[row]["path"], clips[row]["start_s"]))
    place = {clips[row]["clip_id"]: row for row in order}
    shape = (len(clips), encoder.tokens, encoder.width)
    path = folder / "tokens.npy"
    computed = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    outcomes: dict[str, Skipped | None] = {}
    again = replay(
        [clips[row] for row in order], sampling, encoder.preprocessing, exact_pixels=library.config.exact_pixels
    )
    for row, frames in again:
        if isinstance(frames, Skipped):
            outcomes[row["clip_id"]] = frames
        else:
            outcomes[row["clip_id"]] = None
            computed[place[row["clip_id"]]] = encoder.encode_tokens(frames[None])[0]
        if observe is not None:
            observe("computing tokens", len(outcomes), len(clips))
    skipped = [outcome for outcome in outcomes.values() if outcome is not None]
    kept = np.array([row for row in range(len(clips)) if outcomes[clips[row]["clip_id"]] is None], dtype=np.intp)
    if not len(kept):
        raise ProbeError(
            f"{library.path}: none of {len(clips):,} clips could be decoded again; the first: {skipped[0].reason}"
        )
    computed.flush()
    whole = replace(rows, tokens=Tokens([(path, len(clips))], shape[1:]))
    return (whole.take(kept) if skipped else whole), skipped
