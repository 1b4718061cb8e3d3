"""``vmae-embed predict``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmae_embed.cli import EXIT_SOME_FAILED
from vmae_embed.cli.options import device_option, format_option, is_library
from vmae_embed.cli.output import ProgressBar, say, tell_failures, write_rows
from vmae_embed.cli.tokens import features_for, tell_difference
from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.views import Views


@click.command()
@click.argument("probe_folder", metavar="PROBE")
@click.argument("sources", metavar="VIDEO...|LIB|VIEWS", nargs=-1, required=True)
@click.option("-k", "count", type=click.IntRange(1), default=1, metavar="K", help="Labels of each.")
@click.option("--per-clip", is_flag=True, help="Name each clip by itself, not each video by the mean of its clips.")
@device_option
@format_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def predict(
    probe_folder: str,
    sources: tuple[str, ...],
    count: int,
    per_clip: bool,
    device: str | None,
    output_format: str,
    quiet: bool,
) -> int:
    """Name the clips of a library, or of videos, by a probe that `probe fit` kept.

    A library must be of the probe's encoder; videos are embedded by it first, as the clips were that
    the probe was fitted to.
    """
    from vmae_embed.classification import embed_videos
    from vmae_embed.encoder import Encoder, check_device
    from vmae_embed.presets import find_preset
    from vmae_embed.probes import load_probe
    from vmae_embed.probing import all_rows, predictions
    from vmae_embed.sources import check_source
    from vmae_embed.views import open_views

    saved = load_probe(probe_folder, device=str(check_device(device)))
    columns = ["video_id", *(["start_s", "end_s"] if per_clip else ["clips"]), "label", "probability"]

    def write(views: Views) -> None:
        with features_for([saved.kind], views, all_rows(views), device=device) as rows:
            write_rows(predictions(saved, rows, count=count, per_clip=per_clip), output_format, columns)

    if any(is_library(source) for source in sources):
        if len(sources) > 1:
            raise UsageError("a library is named by itself: give one library, or videos")
        views = open_views(sources[0])
        saved.check(views.libraries[0])
        tell_difference(saved, views)
        write(views)
        return 0
    for source in sources:
        check_source(source)
    encoder = Encoder.from_identity(saved.config.encoder, device=device).cropping_as(saved.config.preprocessing)
    saved.config.check_comparable("the probe", encoder.identity, encoder.preprocessing)
    preset = find_preset(saved.fitted_to["preset"]) if saved.fitted_to.get("preset") else None
    bar = ProgressBar(quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
        try:
            views, failures = embed_videos(
                sources,
                Path(folder),
                encoder=encoder,
                sampling=saved.config.sampling,
                preset=preset,
                exact_pixels=saved.config.exact_pixels,
                tokens=saved.probe.reads == "tokens",
                observe=bar,
                announce=lambda room: say(str(room)),
            )
        finally:
            bar.close()
        tell_failures(failures)
        write(views)
    return EXIT_SOME_FAILED if failures else 0
