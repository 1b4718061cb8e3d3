"""``vmae-embed extract``."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.checkpoint import DEFAULT_MODEL, DEMO_MODEL
from vmae_embed.cli import EXIT_INTERRUPTED, EXIT_SOME_FAILED
from vmae_embed.cli.options import (
    PRESET_NAMES,
    NumberOrAuto,
    combine,
    decoder_option,
    dtype_option,
    read_sampling,
    sampling_options,
)
from vmae_embed.cli.output import ProgressBar, count_of, say
from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.summary import Summary

_AS_BEFORE = "[default: as the library was made; else {}]"

_encoder_options = combine(
    click.option(
        "--model",
        metavar="ID|DIR",
        help=f"Hub id or local directory of a VideoMAE checkpoint, or {DEMO_MODEL}: a small one in this package, to "
        f"try things out offline. {_AS_BEFORE.format(DEFAULT_MODEL)}",
    ),
    click.option("--revision", metavar="REV", help="Branch, tag or commit of the hub repository."),
    click.option(
        "--pooling",
        type=click.Choice(("mean", "first-token", "cls")),
        help=f"Of the tokens; VideoMAE has no CLS token, cls means first-token. {_AS_BEFORE.format('mean')}",
    ),
    dtype_option(_AS_BEFORE.format("bfloat16 where the hardware multiplies it, float32 elsewhere")),
    click.option(
        "--devices",
        "--device",
        metavar="DEVICE,..",
        help="cpu, cuda, cuda:1, ...; several, as 0,1 or all, have a process each. [default: a GPU if there is one]",
    ),
    click.option(
        "--batch-size",
        type=NumberOrAuto(),
        help="Clips in one forward pass; auto finds the largest that fits a GPU and still helps. "
        "[default: 32 on a GPU, fewer elsewhere]",
    ),
    click.option(
        "--compile/--no-compile",
        "compiled",
        default=False,
        help="Pass the encoder through torch.compile: seconds to minutes of warm-up, for large jobs on a GPU.",
    ),
)
_run_options = combine(
    click.option("--glob", metavar="PATTERN", help="Which files of folders to take, instead of known video suffixes."),
    decoder_option,
    click.option(
        "--exact-pixels/--fast-pixels",
        default=None,
        help="exact: convert frames whole before they are resized, to the pixels that transformers would see; slower. "
        f"{_AS_BEFORE.format('fast')}",
    ),
    click.option(
        "--workers", type=NumberOrAuto(), default="auto", help="Decoding processes, in all; auto is one a processor."
    ),
    click.option(
        "--video-timeout", type=float, metavar="SECONDS", help="For decoding one. [default: 600, or 4 times its length]"
    ),
    click.option(
        "--video-memory", type=float, default=4.0, metavar="GIB", help="For decoding one; 0 for as much as there is."
    ),
    click.option(
        "--store",
        type=click.Choice(("float32", "float16", "tokens")),
        multiple=True,
        help="Type of the embeddings on disk; tokens keeps all tokens of each clip as well, for attentive probes: "
        f"megabytes a clip. Give it again for both. {_AS_BEFORE.format('float32, no tokens')}",
    ),
    click.option(
        "--with-labels",
        is_flag=True,
        help="Store what the checkpoint's classifier makes of each clip, as columns label and label_probability. "
        f"{_AS_BEFORE.format('without')}",
    ),
    click.option("--prune", is_flag=True, help="Remove videos that no source lists any more."),
    click.option("--retry-failed", is_flag=True, help="Try videos again that failed before."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)  # fmt: skip


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", required=True, metavar="LIB", help="Directory of the library, made if missing.")
@_encoder_options
@click.option(
    "--preset",
    type=click.Choice(PRESET_NAMES),
    help="Views of a published protocol: 5 clips (k400, ucf101) or 2 (ssv2) along time, three crops of each. LIB then "
    "holds a library for each view, for probe, predict and classify.",
)
@sampling_options(_AS_BEFORE.format("7.5"))
@_run_options
def extract(
    sources: tuple[str, ...],
    output: str,
    model: str | None,
    revision: str | None,
    pooling: str | None,
    dtype: str | None,
    devices: str | None,
    batch_size: int | str | None,
    compiled: bool,
    preset: str | None,
    fps: float | None,
    stride: int | None,
    hop: float | None,
    clips_per_video: int | None,
    uniform: bool,
    glob: str | None,
    decoder: str,
    exact_pixels: bool | None,
    workers: int | str,
    video_timeout: float | None,
    video_memory: float,
    store: tuple[str, ...],
    with_labels: bool,
    prune: bool,
    retry_failed: bool,
    quiet: bool,
) -> int:
    """Embed the clips of videos into a library.

    A SOURCE is a video, a folder (searched recursively), a list (.txt, or - for stdin: a path a
    line) or a manifest (.csv, .tsv, .parquet with a column "path"; its other columns are kept).

    Run it again to resume after an interruption, to add new videos, or to re-extract changed
    ones: what the library holds is not done twice.
    """
    begun = time.monotonic()
    sampling = read_sampling(fps, stride, hop, clips_per_video, uniform)
    from vmae_embed.extractor import check_limits, check_views, load_encoder, run, run_views
    from vmae_embed.presets import find_preset
    from vmae_embed.sources import check_source
    from vmae_embed.views import preset_of

    # What is wrong with the call is said before a model is loaded.
    for source in sources:
        if source != "-":
            check_source(source)

    types = set(store) - {"tokens"}
    if len(types) > 1:
        raise UsageError("--store float16 and float32 contradict each other: give one of them")
    memory = _parse_memory(video_memory)
    check_limits(video_timeout, memory)
    chosen = _parse_devices(devices) if devices is not None else []
    views_of = find_preset(preset) if preset else preset_of(Path(output))
    if views_of is not None and sampling is not None:
        raise UsageError(f"preset {views_of.name} says how clips are cut: leave --fps, --stride, --hop, .. out")
    if views_of is not None:
        check_views(sources, Path(output), views_of)
    encoder = load_encoder(
        os.path.join(output, views_of.views[0].name) if views_of else output,
        model,
        revision=revision,
        device=chosen[0] if chosen else None,
        dtype=dtype,
        pooling=pooling,
        compile=compiled,
    )
    if batch_size == "auto":
        encoder.find_batch_size()
    elif isinstance(batch_size, int):
        encoder.batch_size = batch_size
    loading_s = time.monotonic() - begun
    bar = ProgressBar(quiet=quiet)
    options: dict[str, Any] = {
        "encoder": encoder,
        "devices": chosen,
        "glob": glob,
        "decoder": decoder,
        "exact_pixels": exact_pixels,
        "workers": workers if isinstance(workers, int) else None,
        "video_timeout_s": video_timeout,
        "video_memory": memory,
        "stored": next(iter(types), None),
        "tokens": "tokens" in store or None,
        "with_labels": with_labels or None,
        "prune": prune,
        "retry_failed": retry_failed,
        "observe": bar,
        "announce": lambda room: say(str(room)),
    }
    code = 0
    try:
        if views_of is None:
            cut = sampling and replace(sampling, frames=encoder.frames)
            return _report(run(sources, output, sampling=cut, **options), loading_s, bar)
        say(f"{output}: {len(views_of.views)} views of {views_of.name}, one after the other")
        for summary in run_views(sources, output, views_of, **options):
            code = _report(summary, loading_s, bar) or code
            loading_s = 0.0  # the encoder is loaded once
        return code
    except KeyboardInterrupt:
        bar.close()
        say(f"interrupted; what is complete is kept in {output}: run the same command again to go on")
        return EXIT_INTERRUPTED
    finally:
        bar.close()


def _parse_memory(gib: float) -> int | None:
    """GiB to bytes; 0 for no limit."""
    if not math.isfinite(gib) or gib < 0:
        raise UsageError(f"--video-memory {gib:g}: give GiB, or 0 for no limit")
    return max(round(gib * 2**30), 1) if gib else None


def _parse_devices(text: str) -> list[str]:
    """``0,1`` and ``all`` to devices' names."""
    if text == "all":
        import torch

        if not torch.cuda.device_count():
            raise UsageError("--devices all: there is no GPU here")
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"--devices {text!r}: give cpu, cuda, 0,1 or all")
    return [f"cuda:{name}" if name.isdigit() else name for name in names]


def _report(summary: Summary, loading_s: float, bar: ProgressBar) -> int:
    bar.close()
    output = summary.library.path
    rate = f", {summary.clips / summary.seconds:.1f} clips/s" if summary.clips else ""
    say(
        f"{output}: {count_of(summary.clips, 'clip')} of "
        f"{count_of(summary.videos - len(summary.failures), 'video')} added "
        f"in {summary.seconds:.1f} s{rate}; {count_of(summary.held - summary.known_failures, 'video')} already there"
    )
    if summary.setup is not None and (shares := summary.shares()):
        workers, devices = count_of(summary.setup.workers, "process", "es"), ", ".join(summary.setup.devices)
        busy = f"decoding {shares['decoding']:.0%} ({workers}), transfer {shares['transfer']:.0%}"
        busy += f", encoding {shares['encoding']:.0%} ({devices}), writing {shares['writing']:.0%}"
        waiting = f"decoders {shares['decoders waiting']:.0%}, encoder {shares['encoder waiting']:.0%}"
        say(f"time: loading {loading_s:.1f} s; then side by side: {busy}; waiting: {waiting}")
    if bound := summary.bound():
        say(f"held back: {bound}")
    if summary.ignored:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in summary.ignored.most_common(5))
        say(f"not videos by their suffix, left out: {kinds} (--glob '*' takes all)")
    if summary.updated:
        say(f"given other paths or manifest columns: {count_of(summary.updated, 'video')} of those")
    if summary.pruned:
        say(f"removed, as no source lists them: {count_of(summary.pruned, 'video')}")
    elif summary.vanished:
        say(
            f"in the library, but listed by no source any more: {count_of(summary.vanished, 'video')} (--prune removes)"
        )
    failed = len(summary.failures) + summary.known_failures
    if not failed:
        return 0
    stages = Counter(failure.stage for failure in summary.failures)
    known = {"in earlier runs": summary.known_failures} if summary.known_failures else {}
    kinds = ", ".join(f"{name} {count:,}" for name, count in {**dict(stages.most_common()), **known}.items())
    say(
        f"failed: {count_of(failed, 'video')} ({kinds}); "
        f"`vmae-embed failures {output}` lists them, --retry-failed tries them again"
    )
    return EXIT_SOME_FAILED
