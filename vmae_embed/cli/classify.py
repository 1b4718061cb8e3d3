"""``vmae-embed classify``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vmae_embed.checkpoint import DEFAULT_MODEL
from vmae_embed.cli import EXIT_SOME_FAILED
from vmae_embed.cli.options import (
    PRESET_NAMES,
    NumberOrAuto,
    decoder_option,
    device_option,
    dtype_option,
    format_option,
    is_library,
    read_sampling,
    sampling_options,
)
from vmae_embed.cli.output import ProgressBar, RowWriter, tell_failures
from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.classification import Classified

# What says how videos are read; the embeddings of a library have been.
_OF_VIDEOS = (
    *("preset", "fps", "stride", "hop", "clips_per_video", "uniform", "glob", "decoder", "exact_pixels"),
    *("workers", "dtype", "device"),
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="VIDEO...|LIB")
@click.option(
    "--model",
    metavar="ID|DIR",
    help="Hub id or local directory of a fine-tuned VideoMAE checkpoint; of a LIB, where its own lies now. "
    f"[default: {DEFAULT_MODEL}; the LIB's]",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the hub repository.")
@click.option("-k", "k", type=int, default=5, metavar="K", help="How many labels.")
@click.option("--per-clip", is_flag=True, help="Of each clip, instead of each video.")
@click.option(
    "--preset",
    type=click.Choice(PRESET_NAMES),
    help="Views as published: 5 clips (k400, ucf101) or 2 (ssv2) along time, each cropped at the start, centre and end "
    "of the longer side. [default: all clips, centre crop]",
)
@sampling_options("[default: 7.5]")
@click.option("--glob", metavar="PATTERN", help="Which files of folders to take, instead of known video suffixes.")
@click.option(
    "--exact-pixels/--fast-pixels",
    default=False,
    help="exact: convert frames whole before they are resized, to the pixels that transformers would see; slower.",
)
@dtype_option("[default: bfloat16 where the hardware multiplies it, float32 elsewhere]")
@device_option
@decoder_option
@click.option("--workers", type=NumberOrAuto(), default="auto", help="Decoding processes; auto is one a processor.")
@format_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def classify(
    context: click.Context,
    sources: tuple[str, ...],
    model: str | None,
    revision: str | None,
    k: int,
    per_clip: bool,
    preset: str | None,
    fps: float | None,
    stride: int | None,
    hop: float | None,
    clips_per_video: int | None,
    uniform: bool,
    glob: str | None,
    exact_pixels: bool,
    dtype: str | None,
    device: str | None,
    decoder: str,
    workers: int | str,
    output_format: str,
    quiet: bool,
) -> int:
    """Name what videos show, by the labels of a fine-tuned checkpoint.

    Give videos, folders, lists or manifests, as to extract; or a library of a fine-tuned checkpoint,
    whose stored embeddings are classified without decoding anything.

    A video's probabilities are the mean of its clips'.
    """
    if k < 1:
        raise UsageError(f"-k {k}: give a number of labels, at least 1")
    columns = ["clip_id" if per_clip else "video_id", "rank", "label", "probability"]
    writer = RowWriter(output_format, columns)
    if any(is_library(source) for source in sources):
        if len(sources) > 1:
            raise UsageError("a library is classified by itself: give one library, or videos")
        for name in _OF_VIDEOS:
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is for videos; {sources[0]} is a library, whose clips are embedded already")
        from vmae_embed.classification import classify_library, load_classifier
        from vmae_embed.views import open_views

        views = open_views(sources[0])
        classifier = load_classifier(views.libraries[0], model, revision=revision)
        _write(writer, classify_library(views, classifier, k=k, per_clip=per_clip), per_clip)
        return 0
    sampling = read_sampling(fps, stride, hop, clips_per_video, uniform)
    if preset is not None and sampling is not None:
        raise UsageError("--preset says how clips are cut: leave it out, or --fps, --stride, --hop, ..")
    from vmae_embed.classification import classify_videos, load_classifying_encoder
    from vmae_embed.decode import check_decoder
    from vmae_embed.sources import check_source

    # What is wrong with the call is said before a model is loaded.
    for source in sources:
        check_source(source)
    check_decoder(decoder)
    encoder = load_classifying_encoder(model or DEFAULT_MODEL, revision=revision, device=device, dtype=dtype)
    bar = ProgressBar(quiet=quiet)
    try:
        classified, failures = classify_videos(
            sources,
            encoder,
            sampling=sampling,
            preset=preset,
            k=k,
            per_clip=per_clip,
            glob=glob,
            decoder=decoder,
            exact_pixels=exact_pixels,
            workers=workers if isinstance(workers, int) else None,
            observe=bar,
        )
    finally:
        bar.close()
    _write(writer, classified, per_clip)
    tell_failures(failures)
    return EXIT_SOME_FAILED if failures else 0


def _write(writer: RowWriter, classified: Iterable[Classified], per_clip: bool) -> None:
    for one in classified:
        writer.write(_rows(one, per_clip))
    writer.close()


def _rows(one: Classified, per_clip: bool) -> list[dict[str, Any]]:
    name = {"clip_id": one.clip_id} if per_clip else {}
    facts = {**name, "video_id": one.video_id, "start_s": one.start_s, "end_s": one.end_s, "views": one.views}
    return [
        {**facts, "rank": rank, "label": label, "probability": probability}
        for rank, (label, probability) in enumerate(one.best, start=1)
    ]
