"""``vmae-embed duplicates``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli.index import open_index
from vmae_embed.cli.options import format_option, library_argument
from vmae_embed.cli.output import count_of, say, write_rows
from vmae_embed.pages import check_page
from vmae_embed.records import clip_id

if TYPE_CHECKING:
    from vmae_embed.duplicates import Duplicates

_LINE_EVERY_S = 10.0

# Of a table; the other formats have all.
_COLUMNS = {
    "pair": ("cluster", "kind", "offset_s", "clips", "cover_a", "cover_b", "mean", "a", "b"),
    "cluster": ("cluster", "keep", "cover", "duration_s", "width", "height", "video_id", "copy_of"),
    "clip": ("score", "offset_s", "clip_a", "clip_b"),
}


@click.command()
@library_argument
@click.option("--threshold", type=float, default=0.95, metavar="SCORE", help="Clips look alike from this score on.")
@click.option(
    "--scope",
    type=click.Choice(("both", "between", "within")),
    default="both",
    help="between: videos that repeat each other; within: that repeat themselves.",
)
@click.option("--by", type=click.Choice(tuple(_COLUMNS)), default="pair", help="What a row is of.")
@click.option(
    "--extras",
    is_flag=True,
    help="Instead of rows, only the files of videos that a kept one holds, one a line.",
)
@click.option(
    "--min-clips",
    type=int,
    default=2,
    metavar="N",
    help="Clips that must agree on an offset; all of a video that has fewer.",
)
@click.option(
    "--min-cover",
    type=float,
    default=0.8,
    metavar="SHARE",
    help="Of a video's clips, from which another holds it: that makes clusters and extras.",
)
@click.option(
    "--center/--no-center",
    default=None,
    help="Take the library's mean embedding off before comparing. [default: from 20 videos on]",
)
@click.option("--exact", is_flag=True, help="Compare all clips with all instead of asking the index.")
@click.option("--max-per-clip", type=int, default=100, metavar="N", help="Best pairs that each clip keeps.")
@click.option("--max-pairs", type=int, default=5_000_000, metavar="N", help="Best pairs of clips that are kept in all.")
@format_option
@click.option("--html", metavar="FILE", help="Also write a page that shows what repeats what.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
def duplicates(
    library: str,
    threshold: float,
    scope: str,
    by: str,
    extras: bool,
    min_clips: int,
    min_cover: float,
    center: bool | None,
    exact: bool,
    max_per_clip: int,
    max_pairs: int,
    output_format: str,
    html: str | None,
    overwrite: bool,
) -> None:
    """Find videos that repeat each other or themselves, and where.

    Clips that look alike vote for the offset between their videos: what is at t in a is at
    t + offset in b. Copies, excerpts, compilations and loops are told; copies at another speed are
    not. Videos that hold one another form clusters, of which the longest is kept, and every video
    that no kept one holds. Nothing is deleted. docs/duplicates.md says how to choose the threshold.
    """
    from vmae_embed.duplicates import find_duplicates
    from vmae_embed.library import Library

    opened = Library.open(library)
    if html is not None:
        check_page(html, overwrite=overwrite)
    index = open_index(opened)
    found = find_duplicates(
        index,
        threshold=threshold,
        scope=scope,
        center=center,
        exact=exact,
        min_clips=min_clips,
        min_cover=min_cover,
        max_per_clip=max_per_clip,
        max_pairs=max_pairs,
        on_progress=_Progress(),
    )
    warnings = list(_warnings(found, threshold, max_per_clip))
    for line in [_summary(found), *warnings]:
        say(line)
    if extras:
        # A file that is in the library under two names is no copy of itself.
        kept = {os.path.realpath(member.path) for member in found.members if member.copy_of is None and member.path}
        for member in found.extras:
            if not member.path or os.path.realpath(member.path) not in kept:
                click.echo(member.path or member.video_id)
    else:
        write_rows(_rows(found, by, is_table=output_format == "table"), output_format, _COLUMNS[by])
    if html is not None:
        from vmae_embed.duplicates.page import write_page

        title = f"What occurs twice in {Path(library).absolute().name}"
        say(f"page: {write_page(html, index, found, title=title, notes=warnings, overwrite=overwrite)}")


class _Progress:
    """Says every ten seconds how many clips have been compared."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{done:,} of {of:,} clips compared")


def _summary(found: Duplicates) -> str:
    mean = ", their mean taken off" if found.centered else ""
    if not found.pairs:
        alike = count_of(len(found.clip_pairs), "pair") if found.clip_pairs else "none"
        return (
            f"nothing occurs twice in {count_of(found.videos, 'video')} ({count_of(found.clips, 'clip')}{mean}): "
            f"{alike} of their clips reached the threshold; a lower --threshold finds more"
        )
    clusters = len({member.cluster for member in found.members})
    return (
        f"{count_of(len(found.pairs), 'stretch', 'es')} of {count_of(found.videos, 'video')} occur twice "
        f"({count_of(found.clips, 'clip')}{mean}); {count_of(clusters, 'cluster')}, "
        f"{count_of(len(found.extras), 'video')} held by others"
    )


def _warnings(found: Duplicates, threshold: float, max_per_clip: int) -> list[str]:
    """What the reader must know of the threshold, and of what was let go."""
    lines = []
    background = found.background
    if background is not None and background.high >= threshold:
        lines.append(
            f"threshold {threshold:g} is low for this library: of clips of different videos one pair in 1,000 scores "
            f"{background.high:.4f} or more (half of them {background.median:.4f}). Unless it is full of copies, "
            "chance is among what was found; look at the page (--html), or give a higher --threshold"
        )
    if found.crowded:
        lines.append(
            f"{count_of(found.crowded, 'clip')} look like more than {max_per_clip:,} others, and keep the best: "
            "black pictures, titles, or very many copies. A higher --threshold or --max-per-clip keeps all"
        )
    if found.cut_at is not None:
        lines.append(
            f"too many pairs of clips: those below {found.cut_at:.4f} were let go. A higher --threshold or "
            "--max-pairs keeps all"
        )
    if found.many_offsets:
        from vmae_embed.duplicates import MOST_OFFSETS

        pairs = count_of(found.many_offsets, "pair")
        lines.append(f"{pairs} of videos have more than {MOST_OFFSETS} offsets; the rest is not told")
    return lines


def _rows(found: Duplicates, by: str, *, is_table: bool) -> Sequence[Mapping[str, Any]]:
    if by == "clip":
        return found.clip_pairs
    if by == "cluster":
        return [{"keep": member.copy_of is None, **asdict(member)} for member in found.members]
    rows = [asdict(pair) for pair in found.pairs]
    if is_table:
        for row in rows:
            row["a"] = clip_id(row["video_a"], row["start_a_s"], row["end_a_s"])
            row["b"] = clip_id(row["video_b"], row["start_b_s"], row["end_b_s"])
    return rows
