"""``vmae-embed index``."""

from __future__ import annotations

import click

from vmae_embed.cli.options import library_argument
from vmae_embed.cli.output import say


@click.command()
@library_argument
@click.option(
    "--factory",
    type=click.Choice(("auto", "exact", "ivfpq")),
    default="auto",
    help="auto is IVF-PQ where there are enough clips to train it, exact below.",
)
@click.option("--nlist", type=int, metavar="N", help="Cells of an IVF-PQ. [default: chosen by size]")
@click.option("--rebuild", is_flag=True, help="Build it anew though it is up to date.")
def index(library: str, factory: str, nlist: int | None, rebuild: bool) -> None:
    """Build a library's search index, or bring it up to date.

    Searching does this by itself when it must; do it here to choose the index, or to wait now.
    """
    from vmae_embed.index import Index
    from vmae_embed.library import Library

    opened = Library.open(library)
    same = Index.is_current(opened)
    built = Index(opened, opened.index_path) if same and not rebuild else None
    if built is not None and (built.about["kind"], built.about["nlist"]) == (factory, nlist):
        say(f"{library}: up to date ({describe(built)})")
        return
    say(f"{library}: {describe(Index.build(opened, kind=factory, nlist=nlist))}")


def describe(index: object) -> str:
    """Say in a line what an index is and what was measured of it."""
    about = index.about  # type: ignore[attr-defined]
    if about["nprobe"] is None:
        why = "too few for IVF-PQ, which starts at 9,984" if about["kind"] == "auto" else "as asked"
        if about["recall_at_10"] is not None:
            why = f"IVF-PQ found only {about['recall_at_10']:.3f} of the nearest 10"
        return f"exact index of {about['vectors']:,} clips ({why}): every search compares all of them"
    return (
        f"{about['factory']} index of {about['vectors']:,} clips, nprobe {about['nprobe']}, "
        f"candidates re-ranked exactly; recall@10 {about['recall_at_10']:.3f}, measured on clips not yet in it"
    )
