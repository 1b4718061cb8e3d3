"""``vmae-embed predict``."""

from __future__ import annotations

from pathlib import Path

import click

from vmae_embed.cli.output import say, write_rows


@click.command()
@click.argument("probe_folder", metavar="PROBE")
@click.argument("sources", metavar="LIBRARY|VIDEO...", nargs=-1, required=True)
@click.option("-k", "count", type=click.IntRange(1), default=1, metavar="K", help="Labels of each.")
@click.option("--per-clip", is_flag=True, help="Name each clip by itself, not each video by the mean of its clips.")
@click.option("--device", metavar="DEVICE", help="That embeds videos. [default: a GPU if there is one]")
@click.option(
    "--format", "output_format", type=click.Choice(("table", "json", "csv")), default="table", help="Of the output."
)
def predict(
    probe_folder: str, sources: tuple[str, ...], count: int, per_clip: bool, device: str | None, output_format: str
) -> None:
    """Name the clips of a library, or of videos, by a probe that `probe fit` kept.

    A library must be of the probe's encoder; videos are embedded by it first, as the clips were that
    the probe was fitted to.
    """
    import tempfile

    from vmae_embed.encoder import Encoder
    from vmae_embed.extractor import extract
    from vmae_embed.library import Library
    from vmae_embed.probes import load_probe
    from vmae_embed.probing import predictions

    saved = load_probe(probe_folder)
    is_library = len(sources) == 1 and (Path(sources[0]) / "library.json").exists()
    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
        if is_library:
            library = Library.open(sources[0])
        else:
            encoder = Encoder.from_identity(saved.config.encoder, device=device)
            library = extract(
                list(sources),
                Path(folder) / "library",
                encoder=encoder,
                sampling=saved.config.sampling,
            )
            for failure in library.failures():
                say(f"{failure.video_id}: {failure.reason}")
        saved.check(library)
        rows = predictions(saved, library, count=count, per_clip=per_clip)
    columns = ["video_id", *(["start_s", "end_s"] if per_clip else ["clips"]), "label", "probability"]
    write_rows(rows, output_format, columns)
