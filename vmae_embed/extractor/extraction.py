"""Videos in, a library out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from vmae_embed.decode import check_decoder
from vmae_embed.encoder import Encoder, check_device
from vmae_embed.errors import LibraryError, UsageError, one_line
from vmae_embed.extractor.checks import DEFAULT_VIDEO_MEMORY, check_options, check_room
from vmae_embed.extractor.loading import config_of, load_encoder
from vmae_embed.library import LABEL_COLUMNS, Held, Library, LibraryConfig
from vmae_embed.pipeline import (
    SLOTS,
    EncoderRecipe,
    Progress,
    TokenRoom,
    decoding_processes,
    run_on_devices,
    run_units,
)
from vmae_embed.plan import Plan, make_plan, unit_name
from vmae_embed.sampling import Sampling
from vmae_embed.sources import Listing, list_videos
from vmae_embed.summary import Setup, Summary
from vmae_embed.workers import WorkerConfig

_VERSIONED = ("vmae-embed", "transformers", "torch", "av", "decord2", "pyarrow", "numpy", "pillow")


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
        encoder: an `Encoder`, a model for `load_encoder`, or None: as the library was made, else the default.
        sampling: how to cut clips; None: as the library was made, else 7.5 frames a second in touching windows.
        **options: those of `run`.

    Returns:
        The library; `Library.failures` lists the videos that gave nothing.

    Raises:
        UsageError: a source or an option is wrong.
        CheckpointError: the checkpoint cannot be loaded.
        LibraryError: the directory is no library, is in use, or was made otherwise.
    """
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(library, encoder)
    several = [sources] if isinstance(sources, (str, Path)) else list(sources)
    return run(several, library, encoder=encoder, sampling=sampling, **options).library  # type: ignore[arg-type]


def run(
    sources: Sequence[str | Path],
    library: str | Path,
    *,
    encoder: Encoder,
    devices: Sequence[str] = (),
    sampling: Sampling | None = None,
    glob: str | None = None,
    decoder: str = "auto",
    exact_pixels: bool | None = None,
    workers: int | None = None,
    video_timeout_s: float | None = None,
    video_memory: int | None = DEFAULT_VIDEO_MEMORY,
    stored: str | None = None,
    with_labels: bool | None = None,
    tokens: bool | None = None,
    prune: bool = False,
    retry_failed: bool = False,
    observe: Observer | None = None,
    announce: Callable[[TokenRoom], None] | None = None,
    like: str | Path | None = None,
    alike_to_come: int = 0,
) -> Summary:
    """Do what `extract` does, and say what was done.

    Args:
        sources: files, folders, lists and manifests.
        library: directory to make or to add to.
        encoder: loaded.
        devices: several devices to run on, each with a process and an encoder like this one; with
            fewer than two, this one is used.
        sampling: how to cut clips; None: as the library was made, else `Sampling`'s defaults.
        glob: which files of folders to take.
        decoder: one of `vmae_embed.decode.DECODERS`.
        exact_pixels: convert frames whole before they are resized, as transformers would see them;
            None: as the library was made, else not.
        workers: decoding processes, of all devices together; None for one a processor.
        video_timeout_s: seconds that decoding one video may take; None for ten minutes, or four
            times the video's length if that is longer.
        video_memory: bytes that decoding one video may take; None for no limit.
        stored: type of the stored embeddings, ``float32`` or ``float16``; None: as the library was
            made, else ``float32``.
        with_labels: store what the checkpoint's classifier makes of each clip, as columns ``label`` and
            ``label_probability``; None: as the library was made, else not.
        tokens: store all tokens of each clip beside its embedding, as float16; None: as the library was
            made, else not.
        prune: remove videos that no source lists any more.
        retry_failed: try failed videos again.
        observe: called with the plan and with each progress.
        announce: called with what tokens will take on disk, where any are stored and before anything is decoded.
        like: a library whose choices a new one has where nothing is said; it need not exist.
        alike_to_come: libraries of as many clips that the disk has to hold as well.

    Raises:
        UsageError, CheckpointError, LibraryError: as `extract` does.
    """
    before = config_of(library) or (None if like is None else config_of(like))
    if before is not None:
        assert before.sampling is not None  # only imported libraries have none
        sampling = sampling or replace(before.sampling, frames=encoder.frames)
        exact_pixels = before.exact_pixels if exact_pixels is None else exact_pixels
        stored = stored or before.stored
        with_labels = before.classifier is not None if with_labels is None else with_labels
        tokens = before.tokens is not None if tokens is None else tokens
    sampling = sampling or Sampling(frames=encoder.frames)
    exact_pixels, stored = bool(exact_pixels), stored or "float32"
    classifier = encoder.classifier().sha256 if with_labels else None
    on = [check_device(device) for device in devices] if len(devices) > 1 else [encoder.device]
    for device in on:
        check_decoder(decoder, device=device.index or 0)
    check_options(encoder, sampling, stored, workers, video_timeout_s, video_memory)
    begun = time.monotonic()
    listing = list_videos(sources, glob=glob)
    if classifier is not None and (clash := sorted(LABEL_COLUMNS.keys() & listing.columns.keys())):
        raise UsageError(f"column {clash[0]!r}: --with-labels stores a column of that name; rename yours")
    wanted = _describe_run(encoder, sampling, stored, exact_pixels, classifier, tokens=bool(tokens))
    if wanted.tokens is not None:
        check_room(Path(library), wanted, listing, retry_failed, announce, libraries=1 + alike_to_come)
    with Library.writing(library, wanted) as opened:
        opened.carry_columns(listing.columns)
        held = opened.held()
        plan = make_plan(listing.videos, listing.failures, held, retry_failed=retry_failed)
        summary = Summary(opened, begun, held=plan.held, vanished=len(plan.vanished), ignored=listing.ignored)
        summary.known_failures = _count_known_failures(listing, held, plan)
        with _logged(summary):
            opened.remove_videos(plan.stale | (plan.vanished if prune else set()))
            summary.pruned = len(plan.vanished) if prune else 0
            summary.updated = opened.update_videos(listing.videos, listing.columns)
            if plan.failures:
                members = [(failure.video_id, failure.fingerprint) for failure in plan.failures]
                opened.write_unit(unit_name(members), opened.schema.empty_table(), plan.failures)
                _count(summary, Progress(videos=len(plan.failures), failures=tuple(plan.failures)), plan, observe)
            if plan.units:
                config = WorkerConfig(
                    sampling,
                    encoder.preprocessing,
                    decoder,
                    exact_pixels,
                    video_timeout_s,
                    SLOTS,
                    video_memory,
                    on[0].index or 0,
                )
                _extract_units(summary, plan, encoder, list(devices), config, workers, observe)
    return summary


def _extract_units(
    summary: Summary,
    plan: Plan,
    encoder: Encoder,
    devices: list[str],
    config: WorkerConfig,
    workers: int | None,
    observe: Observer | None,
) -> None:
    devices = devices[: len(plan.units)] if len(devices) > 1 else [str(encoder.device)]
    batch_bytes = encoder.batch_size * config.slot_bytes
    a_device = decoding_processes(len(plan.units), len(devices), batch_bytes, asked=workers)
    summary.begin(
        Setup(
            devices=tuple(devices),
            workers=a_device * len(devices),
            decoder=config.decoder,
            dtype=encoder.identity["precision"],
            batch_size=encoder.batch_size,
            compiled=encoder.compiled,
        )
    )
    library = summary.library
    library.log_run(summary.to_log(None))
    if len(devices) > 1:
        recipe = EncoderRecipe(encoder.identity, encoder.compiled, encoder.batch_size)
        running = run_on_devices(plan.units, devices, recipe, library, config, workers=a_device)
    else:
        running = run_units(plan.units, encoder, library, config, workers=a_device)
    # Closed here: an exception's traceback would keep it, and its processes, alive.
    with contextlib.closing(running) as progresses:
        for progress in progresses:
            _count(summary, progress, plan, observe)


@contextlib.contextmanager
def _logged(summary: Summary) -> Iterator[None]:
    """Say in the library how the run ended, if it did anything."""
    ended = "done"
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        ended = "interrupted"
        raise
    except BaseException as error:
        ended = one_line(error)
        raise
    finally:
        summary.end()
        if summary.videos or summary.setup or summary.pruned or summary.updated:
            with contextlib.suppress(LibraryError) if ended != "done" else contextlib.nullcontext():
                summary.library.log_run(summary.to_log(ended))


def _count(summary: Summary, progress: Progress, plan: Plan, observe: Observer | None) -> None:
    summary.add(progress)
    if observe is not None:
        observe(plan, progress)


def _count_known_failures(listing: Listing, held: Mapping[str, Held], plan: Plan) -> int:
    listed = {video.id for video in listing.videos} | {failure.video_id for failure in listing.failures}
    return sum(1 for key in listed - plan.stale if key in held and held[key].failed)


def _describe_run(
    encoder: Encoder, sampling: Sampling, stored: str, exact_pixels: bool, classifier: str | None, *, tokens: bool
) -> LibraryConfig:
    return LibraryConfig(
        encoder=encoder.identity,
        sampling=sampling,
        preprocessing=encoder.preprocessing,
        stored=stored,
        columns={} if classifier is None else LABEL_COLUMNS,
        exact_pixels=exact_pixels,
        classifier=classifier,
        tokens=encoder.tokens if tokens else None,
        versions={name: metadata.version(name) for name in _VERSIONED},
    )
