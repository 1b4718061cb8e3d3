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

    Makes DIR with a small library of encoded videos, extracts, indexes, searches, and writes a
    page. Run it again to finish an interrupted one.
    """
    from vmae_embed.demo import RANDOM_WEIGHTS, run_demo

    bar = ProgressBar()
    try:
        made = run_demo(Path(folder), say=lambda line: say(f"· {line}"), observe=bar)
    finally:
        bar.close()
    rows = [{**asdict(hit), **hit.columns} for hit in made.hits]
    write_rows(rows, "table", ["rank", "score", "clip_id", "motion", "look"])
    say(f"note: {RANDOM_WEIGHTS}")
    say(f"open {made.page.resolve()}")
