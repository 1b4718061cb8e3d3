"""``vmae-embed demo``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from vmae_embed.cli.output import ProgressBar, say, write_rows


@click.command()
@click.argument("folder", metavar="[DIR]", default="vmae-embed-demo")
def demo(folder: str) -> None:
    """Show all of it offline, on videos made by code.

    Makes DIR with a small library of encoded videos, extracts, indexes, searches twice (what is alike;
    what moves alike but looks otherwise), and writes two pages. Run it again to finish an interrupted one.
    """
    from vmae_embed.demo import SMALL_MODEL, run_demo

    bar = ProgressBar()
    try:
        made = run_demo(Path(folder), say=lambda line: say(f"· {line}"), observe=bar)
    finally:
        bar.close()
    for hits in (made.hits, made.other_looks):
        rows = [{**asdict(hit), **hit.columns} for hit in hits]
        write_rows(rows, "table", ["rank", "score", "clip_id", "motion", "look"])
        say("")
    say(f"note: {SMALL_MODEL}")
    say(f"open {made.page.resolve()} and {made.other_looks_page.resolve()}")
