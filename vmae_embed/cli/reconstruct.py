"""``vmae-embed reconstruct``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli import EXIT_SOME_FAILED
from vmae_embed.cli.options import device_option
from vmae_embed.cli.output import StageProgress, count_of, say
from vmae_embed.errors import UsageError
from vmae_embed.records import clip_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vmae_embed.library import Library
    from vmae_embed.reconstruction import LibraryLosses, Reconstruction, Reconstructor

_MOST_SHOWN = 5


@click.command()
@click.argument("video", metavar="[VIDEO]", required=False)
@click.option("-o", "--output", metavar="FILE", help="Also draw original, masked and reconstructed frames: a .png.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
@click.option(
    "--model",
    metavar="ID|DIR",
    help="Hub id or local directory of a pre-trained VideoMAE, which still has its decoder. "
    "[default: with --over the library's; else MCG-NJU/videomae-base]",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the hub repository.")
@click.option(
    "--at",
    type=click.Choice(("first", "middle")),
    help="Which clip of VIDEO to take. [default: middle; of a moment such as clip.mp4#t=3,5, first]",
)
@click.option("--fps", type=float, metavar="RATE", help="Sample by time, so many frames a second. [default: 7.5]")
@click.option(
    "--stride",
    type=int,
    metavar="N",
    help="Sample every N-th frame instead, as the checkpoint was trained (Kinetics: 4, SSv2: 2).",
)
@click.option(
    "--mask-ratio",
    type=float,
    default=0.9,
    metavar="SHARE",
    help="Share of each frame's patches to hide, the same ones at all moments.",
)
@click.option("--seed", type=int, default=0, metavar="N", help="Of the mask, and of the clips that are drawn.")
@click.option("--over", "library", metavar="LIB", help="Also measure clips of a library, and say where VIDEO stands.")
@click.option("--clips", type=int, metavar="N", help="How many clips of LIB to draw, one a video first. [default: 256]")
@device_option
@click.option("--format", "output_format", type=click.Choice(("table", "json")), default="table", help="Of the output.")
def reconstruct(
    video: str | None,
    output: str | None,
    overwrite: bool,
    model: str | None,
    revision: str | None,
    at: str | None,
    fps: float | None,
    stride: int | None,
    mask_ratio: float,
    seed: int,
    library: str | None,
    clips: int | None,
    device: str | None,
    output_format: str,
) -> int:
    """Hide most of a clip and have a pre-trained VideoMAE fill it in.

    A quick test of how far videos lie from what the checkpoint was trained on: the further, the
    higher the loss. VIDEO is a file (clip.mp4) or a moment of one (clip.mp4#t=3,5). Beside its
    loss stands that of filling each patch with its own mean colour, which knows nothing of motion
    or form. docs/reconstruction.md says how to read them.

    --over LIB decodes clips of a library again, from the videos that it was made of.
    """
    _check(
        video=video,
        library=library,
        of_a_video={"-o": output, "--at": at},
        of_a_library={"--clips": clips},
        of_its_sampling={"--fps": fps, "--stride": stride},
    )
    from vmae_embed.library import Library
    from vmae_embed.reconstruction import (
        check_picture,
        choose_clip,
        decode_clip,
        measure_library,
        tube_mask,
    )
    from vmae_embed.replay import sampling_of
    from vmae_embed.sampling import Sampling

    chosen = None if video is None else choose_clip(video, at)
    picture = None if output is None else check_picture(output, overwrite=overwrite)
    opened = None if library is None else Library.open(library)
    model_used = _load(opened, model, revision, device)
    sampling = (
        Sampling(model_used.frames, 7.5 if fps is None else fps, stride)
        if opened is None
        else sampling_of(opened, model_used.name, model_used.frames)
    )
    mask = tube_mask(model_used.grid, mask_ratio, seed)
    result: dict[str, Any] = {
        "model": model_used.name,
        "norm_pix_loss": model_used.normalises_patches,
        "patches": mask[0].size,
        "hidden_patches": int(mask[0].sum()),
        "mask_ratio": mask_ratio,
        "seed": seed,
    }
    if chosen is not None:
        batch = decode_clip(chosen, sampling, model_used.preprocessing)
        made = model_used.reconstruct(batch.frames, mask)
        result["clip"] = {
            "clip_id": clip_id(chosen.name, batch.span.start_s, batch.span.end_s),
            "path": chosen.path,
            "loss": made.loss,
            "baseline": made.baseline,
        }
        if picture is not None:
            _draw(picture, made, batch.times_s, result)
    skipped = 0
    if opened is not None:
        with StageProgress() as progress:
            losses = measure_library(
                opened,
                model_used,
                mask,
                clips=256 if clips is None else clips,
                seed=seed,
                observe=lambda done, total: progress("reconstructing", done, total),
            )
        result["library"] = _library_as_json(opened, losses)
        if chosen is not None:
            result["clip"]["percentile"] = losses.rank(made.loss)
        skipped = _tell_skipped(losses)
    if output_format == "json":
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(result)
    return EXIT_SOME_FAILED if skipped else 0


def _check(
    *,
    video: str | None,
    library: str | None,
    of_a_video: Mapping[str, Any],
    of_a_library: Mapping[str, Any],
    of_its_sampling: Mapping[str, Any],
) -> None:
    """Refuse options that say something of what is not there."""
    video_only, library_only, sampling = (
        [name for name, value in options.items() if value is not None]
        for options in (of_a_video, of_a_library, of_its_sampling)
    )
    if video is None and library is None:
        raise UsageError("Missing argument 'VIDEO', or option '--over' for a library: give one of them, or both")
    if video is None and video_only:
        raise UsageError(f"{video_only[0]}: is about a VIDEO, which is missing")
    if library is None and library_only:
        raise UsageError(f"{library_only[0]}: is about a library, which is missing (--over LIB)")
    if library is not None and sampling:
        raise UsageError(f"--over and {sampling[0]} contradict each other: clips are sampled as the library was made")
    if len(sampling) > 1:
        raise UsageError("--fps and --stride contradict each other: give one of them")


def _load(library: Library | None, model: str | None, revision: str | None, device: str | None) -> Reconstructor:
    from vmae_embed.checkpoint import DEFAULT_PRETRAINED_MODEL
    from vmae_embed.reconstruction import Reconstructor

    if model is None and library is not None and not library.config.imported:
        made_with = library.config.encoder
        model, revision = made_with["checkpoint"], revision or made_with.get("revision")
    return Reconstructor.from_pretrained(model or DEFAULT_PRETRAINED_MODEL, revision=revision, device=device)


def _draw(picture: Path, made: Reconstruction, times_s: NDArray[np.float64], result: dict[str, Any]) -> None:
    from vmae_embed.reconstruction import write_picture

    write_picture(
        picture,
        made,
        times_s,
        title=f"{Path(result['clip']['clip_id']).name}   loss {made.loss:.4f}, patch means {made.baseline:.4f}",
        notes=f"{result['model']}, {_hidden(result)}. "
        + ("Hidden patches are drawn with their own true mean and contrast." if result["norm_pix_loss"] else ""),
    )
    say(f"picture: {picture}")


def _hidden(result: Mapping[str, Any]) -> str:
    return f"{result['hidden_patches']} of {result['patches']} patches hidden, seed {result['seed']}"


def _library_as_json(library: Library, losses: LibraryLosses) -> dict[str, Any]:
    listed = [asdict(clip) for clip in losses.measured]
    return {
        "path": str(library.path),
        "clips": losses.among,
        "measured": len(listed),
        "videos": losses.videos,
        "mean": float(losses.losses.mean()),
        "mean_baseline": sum(clip.baseline for clip in losses.measured) / len(listed),
        "percentiles": {str(percent): loss for percent, loss in losses.percentiles.items()},
        "hardest": listed[: -_MOST_SHOWN - 1 : -1],
        "easiest": listed[:_MOST_SHOWN],
        "skipped": [asdict(clip) for clip in losses.skipped],
    }


def _tell_skipped(losses: LibraryLosses) -> int:
    """Say which clips are missing, and why; return how many."""
    for clip in losses.skipped[:_MOST_SHOWN]:
        say(f"{clip.clip_id}: {clip.reason}")
    if losses.skipped:
        of = len(losses.measured) + len(losses.skipped)
        stages = ", ".join(f"{stage} {count}" for stage, count in Counter(c.stage for c in losses.skipped).items())
        say(f"skipped: {len(losses.skipped):,} of {count_of(of, 'clip')} ({stages}); --format json lists them")
    return len(losses.skipped)


def _print(result: Mapping[str, Any]) -> None:
    def line(name: str, value: object) -> None:
        click.echo(f"{name:<14}{value}")

    normalised = "" if result["norm_pix_loss"] else ", trained on pixels as they are"
    line("model", f"{result['model']}{normalised}")
    line("masked", _hidden(result))
    clip, library = result.get("clip"), result.get("library")
    if clip is not None:
        line("clip", clip["clip_id"])
        line("loss", f"{clip['loss']:.4f}")
        line("patch means", f"{clip['baseline']:.4f}   the loss of filling each patch with its own mean colour")
    if library is None:
        return
    click.echo()
    of = f"{library['measured']:,} of {count_of(library['clips'], 'clip')}, of {count_of(library['videos'], 'video')}"
    line("library", f"{library['path']}: {of}")
    line("mean loss", f"{library['mean']:.4f}   patch means {library['mean_baseline']:.4f}")
    line("percentiles", "   ".join(f"{p}% {loss:.4f}" for p, loss in library["percentiles"].items()))
    if clip is not None:
        line("this clip", f"{clip['percentile']:.0f}% of them have a lower loss")
    for name in ("hardest", "easiest"):
        for place, one in enumerate(library[name]):
            line("" if place else name, f"{one['loss']:.4f}  {one['clip_id']}")
