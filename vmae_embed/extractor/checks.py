"""What is refused before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.library import STORED, Held, Library, LibraryConfig
from vmae_embed.pipeline import TokenRoom, token_room
from vmae_embed.plan import make_plan
from vmae_embed.sampling import Sampling
from vmae_embed.sources import Listing

# An 8K video takes about 2 GiB; the file that claims 30,000 x 30,000 pixels shall not take the machine.
DEFAULT_VIDEO_MEMORY = 4 * 2**30
LEAST_VIDEO_MEMORY = 2**26


def check_options(
    encoder: Encoder,
    sampling: Sampling,
    stored: str,
    workers: int | None,
    video_timeout_s: float | None,
    video_memory: int | None,
) -> None:
    """Refuse options of `vmae_embed.extractor.run` that contradict each other or the encoder.

    Raises:
        UsageError: saying which.
    """
    if sampling.frames != encoder.frames:
        raise UsageError(f"sampling takes {sampling.frames} frames a clip; this checkpoint takes {encoder.frames}")
    if stored not in STORED:
        raise UsageError(f"stored={stored!r}: choose one of {', '.join(STORED)}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: give at least 1")
    check_limits(video_timeout_s, video_memory)


def check_limits(video_timeout_s: float | None, video_memory: int | None) -> None:
    """Refuse limits that no video could keep.

    Args:
        video_timeout_s: seconds for decoding one, or None.
        video_memory: bytes for decoding one, or None.

    Raises:
        UsageError: one of them is too small.
    """
    if video_timeout_s is not None and not video_timeout_s > 0:
        raise UsageError(f"video-timeout={video_timeout_s:g}: give seconds, above 0")
    if video_memory is not None and video_memory < LEAST_VIDEO_MEMORY:
        least = f"at least {LEAST_VIDEO_MEMORY / 2**30:g}, or 0 for no limit"
        raise UsageError(f"video-memory={video_memory / 2**30:g}: give GiB, {least}")


def check_room(
    folder: Path,
    wanted: LibraryConfig,
    listing: Listing,
    retry_failed: bool,
    announce: Callable[[TokenRoom], None] | None,
    *,
    libraries: int = 1,
) -> None:
    """See that tokens will fit on the disk; a refusal leaves things as they were.

    Args:
        folder: of the library, which need not exist.
        wanted: how it is to be made, with tokens.
        listing: videos to extract, but for those that it holds.
        retry_failed: whether those that failed before are among them.
        announce: called with what the tokens will take.
        libraries: of as many clips, with this one.

    Raises:
        UsageError: they will not fit.
        LibraryError: the library cannot be read, or was made otherwise.
    """
    held: Mapping[str, Held] = {}
    if os.path.exists(folder / "library.json"):
        before = Library.open(folder)
        before.check_continuable(wanted)
        held = before.held()
    plan = make_plan(listing.videos, listing.failures, held, retry_failed=retry_failed)
    if plan.units:
        assert wanted.tokens is not None
        assert wanted.sampling is not None
        room = token_room(plan, wanted.sampling, (wanted.tokens, wanted.encoder["width"]), folder)
        room = replace(room, clips=None if room.clips is None else room.clips * libraries)
        if announce is not None:
            announce(room)
        room.check(folder)
