"""``vmae-embed search``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmae_embed.cli.options import (
    decoder_option,
    device_option,
    dtype_option,
    format_option,
    library_argument,
)
from vmae_embed.cli.output import say, write_rows
from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder


@click.command()
@library_argument
@click.argument("query", metavar="QUERY")
@click.option("-k", "k", type=int, default=10, metavar="K", help="How many hits.")
@click.option(
    "--group-by",
    type=click.Choice(("clip", "video")),
    default="clip",
    help="video: only the best clip of each.",
)
@click.option(
    "--exclude-self/--include-self",
    default=True,
    help="Leave out clips of the query's own video that overlap it.",
)
@click.option("--exact", is_flag=True, help="Compare with every clip instead of asking the index.")
@format_option
@click.option("--html", metavar="FILE", help="Also write a page of frame strips and playable fragments.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option("--model", metavar="ID|DIR", help="Where the library's checkpoint lies now. [default: where it lay]")
@click.option("--revision", metavar="REV", help="Of the hub repository. [default: the library's]")
@click.option("--pooling", type=click.Choice(("mean", "first-token", "cls")), help="[default: the library's]")
@dtype_option("[default: the library's]")
@device_option
@decoder_option
def search(
    library: str,
    query: str,
    k: int,
    group_by: str,
    exclude_self: bool,
    exact: bool,
    output_format: str,
    html: str | None,
    overwrite: bool,
    model: str | None,
    revision: str | None,
    pooling: str | None,
    dtype: str | None,
    device: str | None,
    decoder: str,
) -> None:
    """Find the clips that look most like a query.

    QUERY is a video file (clip.mp4), a moment of one (clip.mp4#t=3,5), a clip or video id of the
    library, or a .npy file of vectors. What the library already holds is found without loading
    a model.
    """
    from vmae_embed.index import Index
    from vmae_embed.library import Library
    from vmae_embed.query import search as find

    opened = Library.open(library)
    if html is not None and not Path(html).absolute().parent.is_dir():
        raise UsageError(f"{html}: cannot be written (its folder does not exist)")
    if html is not None and Path(html).exists() and not overwrite:
        raise UsageError(f"{html}: exists; give another name, or --overwrite")

    def load() -> Encoder:
        from vmae_embed.encoder import Encoder

        made_with = opened.config.encoder
        return Encoder.from_identity(made_with, model, revision=revision, device=device, dtype=dtype, pooling=pooling)

    # A checkpoint or pooling that was named is checked even where the library has the answer.
    encoder: Encoder | Callable[[], Encoder] = load
    if model or revision or pooling:
        encoder = load()
        opened.check_comparable(encoder.identity, encoder.preprocessing)
    if not Index.is_current(opened):
        say(f"{library}: {'bringing its index up to date' if opened.index_path.exists() else 'building its index'}")
    hits = find(
        Index.open(opened),
        query,
        encoder=encoder,
        k=k,
        group_by=group_by,
        include_self=not exclude_self,
        exact=exact,
        decoder=decoder,
    )
    if not len(hits):
        say("no hits: what there is overlaps the query itself (--include-self)")
    rows = [{**{key: value for key, value in asdict(hit).items() if key != "columns"}, **hit.columns} for hit in hits]
    carried = list(opened.config.columns)
    several = ["query"] if len(hits.queries) > 1 else []
    write_rows(rows, output_format, ["rank", "score", "clip_id", *several, *carried])
    if html is not None:
        from vmae_embed.report import write_report

        say(f"page: {write_report(html, hits, title=f'What looks like {query}', overwrite=overwrite)}")
