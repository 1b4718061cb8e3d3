"""Extraction: videos in, a library out. Resuming, growing and repairing are the same call."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from vmae_embed.decode import check_decoder
from vmae_embed.encoder import Encoder, check_device
from vmae_embed.errors import LibraryError, UsageError, one_line
from vmae_embed.library import LABEL_COLUMNS, STORED, Held, Library, LibraryConfig
from vmae_embed.pipeline import (
    SLOTS,
    EncoderRecipe,
    Progress,
    TokenRoom,
    decoding_processes,
    run_on_devices,
    run_units,
    token_room,
)
from vmae_embed.plan import Plan, make_plan, unit_name
from vmae_embed.presets import Preset
from vmae_embed.sampling import Sampling
from vmae_embed.sources import Listing, list_videos
from vmae_embed.summary import Setup, Summary
from vmae_embed.views import begin_views
from vmae_embed.workers import WorkerConfig

# An 8K video takes about 2 GiB; the file that claims 30,000 x 30,000 pixels shall not take the machine.
DEFAULT_VIDEO_MEMORY = 4 * 2**30
LEAST_VIDEO_MEMORY = 2**26

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


def load_encoder(
    library: str | Path,
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    pooling: str | None = None,
    compile: bool = False,
) -> Encoder:
    """Load an encoder to go on with a library as it was made, or to begin one.

    Args:
        library: directory of the library, which need not exist.
        model: hub id or directory; None for the library's, else the default.
        revision: of the hub repository.
        device: None takes a GPU where there is one.
        dtype: None for the library's, else what `Encoder.from_pretrained` takes.
        pooling: None for the library's, else the mean of the tokens.
        compile: pass it through ``torch.compile``.

    Raises:
        UsageError, CheckpointError: as `Encoder.from_pretrained` does.
        LibraryError: the library cannot be read.
    """
    before = _config_of(library)
    return Encoder.from_identity(
        before.encoder if before else {},
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        pooling=pooling,
        compile=compile,
    )


def _config_of(library: str | Path) -> LibraryConfig | None:
    if not os.path.exists(os.path.join(library, "library.json")):
        return None
    config = Library.open(library).config
    if config.imported:
        raise LibraryError(
            f"{library} was imported: nobody here knows what made its vectors; extract into another directory"
        )
    return config


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

    Raises:
        UsageError, CheckpointError, LibraryError: as `extract` does.
    """
    before = _config_of(library)
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
    _check(encoder, sampling, stored, workers, video_timeout_s, video_memory)
    begun = time.monotonic()
    listing = list_videos(sources, glob=glob)
    if classifier is not None and (clash := sorted(LABEL_COLUMNS.keys() & listing.columns.keys())):
        raise UsageError(f"column {clash[0]!r}: --with-labels stores a column of that name; rename yours")
    wanted = _describe_run(encoder, sampling, stored, exact_pixels, classifier, tokens=bool(tokens))
    if wanted.tokens is not None:
        _check_room(Path(library), wanted, listing, retry_failed, announce)
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


def run_views(
    sources: Sequence[str | Path], folder: str | Path, preset: Preset, *, encoder: Encoder, **options: Any
) -> Iterator[Summary]:
    """Do what `run` does for each view of a preset, each into a library of its own.

    Args:
        sources: files, folders, lists and manifests; no ``-``: they are read once for each view.
        folder: of the views, to make or to go on with.
        preset: says how clips are cut and cropped.
        encoder: loaded.
        **options: those of `run`, but ``sampling``.

    Yields:
        What was done, of one view after the other.

    Raises:
        UsageError, CheckpointError, LibraryError: as `extract` does.
    """
    if "-" in sources:
        raise UsageError("-: standard input cannot be read once for each view; give a list in a file")
    begin_views(Path(folder), preset)
    for view in preset.views:
        sampling = replace(view.sampling, frames=encoder.frames)
        cropping = encoder.cropping_at(view.crop_at)
        yield run(sources, Path(folder, view.name), encoder=cropping, sampling=sampling, **options)


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


def _check(
    encoder: Encoder,
    sampling: Sampling,
    stored: str,
    workers: int | None,
    video_timeout_s: float | None,
    video_memory: int | None,
) -> None:
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


def _check_room(
    folder: Path,
    wanted: LibraryConfig,
    listing: Listing,
    retry_failed: bool,
    announce: Callable[[TokenRoom], None] | None,
) -> None:
    """See that tokens will fit on the disk; a refusal leaves things as they were."""
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
        if announce is not None:
            announce(room)
        room.check(folder)


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
