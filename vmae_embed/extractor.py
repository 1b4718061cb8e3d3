"""Extraction: videos in, a library out. Resuming, growing and repairing are the same call."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from vmae_embed.decode import DECODERS
from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.library import STORED, Held, Library, LibraryConfig
from vmae_embed.pipeline import SLOTS, Progress, run_units
from vmae_embed.plan import Plan, make_plan, unit_name
from vmae_embed.records import Failure
from vmae_embed.sampling import Sampling
from vmae_embed.sources import Listing, list_videos
from vmae_embed.workers import WorkerConfig

# More decoding processes than this starve no single device that was measured.
_MOST_WORKERS = 16

_VERSIONED = ("vmae-embed", "transformers", "torch", "av", "decord2", "pyarrow", "numpy", "pillow")


@dataclass
class Summary:
    """What a run did.

    Attributes:
        library: that it wrote to.
        videos: extracted or failed in this run.
        clips: added.
        held: videos that needed nothing.
        failures: of this run.
        known_failures: videos that failed in earlier runs and were not tried again.
        vanished: videos in the library that no source lists any more.
        pruned: of them, removed.
        updated: held videos whose path or carried columns are listed otherwise now.
        ignored: files in folders that are no videos by their suffix, counted by suffix.
        seconds: wall time.
    """

    library: Library
    videos: int = 0
    clips: int = 0
    held: int = 0
    failures: list[Failure] = field(default_factory=list)
    known_failures: int = 0
    vanished: int = 0
    pruned: int = 0
    updated: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


Observer = Callable[[Plan, Progress], None]


def extract(
    sources: str | Path | Sequence[str | Path],
    library: str | Path,
    *,
    encoder: Encoder | str | None = None,
    sampling: Sampling | None = None,
    **options: object,
) -> Library:
    """Extract the clips of videos into a library, or bring a library up to date.

    Videos that the library holds are left alone, unless their files changed. Killed at any
    moment and called again, it ends with the rows of an undisturbed run.

    Args:
        sources: files, folders, lists and manifests; see `vmae_embed.sources.list_videos`.
        library: directory to make or to add to.
        encoder: an `Encoder`, a model for `Encoder.from_pretrained`, or None for the default.
        sampling: how to cut clips; None for 7.5 frames a second in touching windows.
        **options: those of `run`.

    Returns:
        The library; `Library.failures` lists the videos that gave nothing.

    Raises:
        UsageError: a source or an option is wrong.
        CheckpointError: the checkpoint cannot be loaded.
        LibraryError: the directory is no library, is in use, or was made otherwise.
    """
    if not isinstance(encoder, Encoder):
        encoder = Encoder.from_pretrained(encoder) if encoder else Encoder.from_pretrained()
    several = [sources] if isinstance(sources, (str, Path)) else list(sources)
    return run(several, library, encoder=encoder, sampling=sampling, **options).library  # type: ignore[arg-type]


def run(
    sources: Sequence[str | Path],
    library: str | Path,
    *,
    encoder: Encoder,
    sampling: Sampling | None = None,
    glob: str | None = None,
    decoder: str = "auto",
    workers: int | None = None,
    video_timeout_s: float | None = None,
    stored: str = "float32",
    prune: bool = False,
    retry_failed: bool = False,
    observe: Observer | None = None,
) -> Summary:
    """Do what `extract` does, and say what was done.

    Args:
        sources: files, folders, lists and manifests.
        library: directory to make or to add to.
        encoder: loaded.
        sampling: how to cut clips.
        glob: which files of folders to take.
        decoder: one of `vmae_embed.decode.DECODERS`.
        workers: decoding processes; None for one a processor.
        video_timeout_s: seconds that decoding one video may take; None for ten minutes, or four
            times the video's length if that is longer.
        stored: type of the stored embeddings, ``float32`` or ``float16``.
        prune: remove videos that no source lists any more.
        retry_failed: try failed videos again.
        observe: called with the plan and with each progress.

    Raises:
        UsageError, CheckpointError, LibraryError: as `extract` does.
    """
    begun = time.monotonic()
    sampling = sampling or Sampling(frames=encoder.frames)
    if sampling.frames != encoder.frames:
        raise UsageError(f"sampling takes {sampling.frames} frames a clip; this checkpoint takes {encoder.frames}")
    for name, value, known in (("decoder", decoder, DECODERS), ("stored", stored, STORED)):
        if value not in known:
            raise UsageError(f"{name}={value!r}: choose one of {', '.join(known)}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: give at least 1")
    if video_timeout_s is not None and not video_timeout_s > 0:
        raise UsageError(f"video-timeout={video_timeout_s:g}: give seconds, above 0")
    listing = list_videos(sources, glob=glob)
    with Library.writing(library, _describe_run(encoder, sampling, stored)) as opened:
        opened.carry_columns(listing.columns)
        held = opened.held()
        plan = make_plan(listing.videos, listing.failures, held, retry_failed=retry_failed)
        summary = Summary(opened, held=plan.held, vanished=len(plan.vanished), ignored=listing.ignored)
        summary.known_failures = _count_known_failures(listing, held, plan)
        opened.remove_videos(plan.stale | (plan.vanished if prune else set()))
        summary.pruned = len(plan.vanished) if prune else 0
        summary.updated = opened.update_videos(listing.videos, listing.columns)
        if plan.failures:
            members = [(failure.video_id, failure.fingerprint) for failure in plan.failures]
            opened.write_unit(unit_name(members), opened.schema.empty_table(), plan.failures)
            _count(summary, Progress(videos=len(plan.failures), failures=tuple(plan.failures)), plan, observe)
        if plan.units:
            config = WorkerConfig(sampling, encoder.preprocessing, decoder, video_timeout_s, SLOTS)
            processes = min(workers or _processors(), len(plan.units), workers or _MOST_WORKERS)
            # Closed here: an exception's traceback would keep it, and its processes, alive.
            with contextlib.closing(run_units(plan.units, encoder, opened, config, workers=processes)) as progresses:
                for progress in progresses:
                    _count(summary, progress, plan, observe)
    summary.seconds = time.monotonic() - begun
    return summary


def _count(summary: Summary, progress: Progress, plan: Plan, observe: Observer | None) -> None:
    summary.clips += progress.committed
    summary.videos += progress.videos
    summary.failures += progress.failures
    if observe is not None:
        observe(plan, progress)


def _count_known_failures(listing: Listing, held: Mapping[str, Held], plan: Plan) -> int:
    listed = {video.id for video in listing.videos} | {failure.video_id for failure in listing.failures}
    return sum(1 for key in listed - plan.stale if key in held and held[key].failed)


def _describe_run(encoder: Encoder, sampling: Sampling, stored: str) -> LibraryConfig:
    return LibraryConfig(
        encoder=encoder.identity,
        sampling=sampling,
        preprocessing=encoder.preprocessing,
        stored=stored,
        columns={},
        versions={name: metadata.version(name) for name in _VERSIONED},
    )


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
