"""``vmae-embed search``."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli import EXIT_SOME_FAILED
from vmae_embed.cli.index import open_index
from vmae_embed.cli.options import FORMATS, decoder_option, device_option, dtype_option, library_argument
from vmae_embed.cli.output import RowWriter, say
from vmae_embed.errors import QueryError, UsageError
from vmae_embed.pages import check_page

if TYPE_CHECKING:
    from vmae_embed.encoder import Encoder
    from vmae_embed.library import Library
    from vmae_embed.query import Hits
    from vmae_embed.records import Hit


@click.command()
@library_argument
@click.argument("query", metavar="[QUERY]", required=False)
@click.option("--queries", metavar="FILE", help="Many queries: a list, one a line (- for stdin), or .npy of (Q, D).")
@click.option("-k", "k", type=int, metavar="K", help="How many hits. [default: 10]")
@click.option(
    "--where",
    metavar="EXPR",
    help="Only clips that fit an SQL condition on clip_id, video_id, start_s, end_s, path and the manifest's columns.",
)
@click.option(
    "--group-by",
    type=click.Choice(("clip", "video")),
    default="clip",
    help="video: only the best hit of each.",
)
@click.option(
    "--merge-gap",
    type=float,
    metavar="SECONDS",
    help="Make one hit of those of a video that overlap or lie at most so far apart; 0 where they touch.",
)
@click.option("--min-score", type=float, metavar="S", help="Leave out hits that score less.")
@click.option(
    "--range",
    "range_from",
    type=float,
    metavar="S",
    help="All hits that score at least this, instead of K. An index may miss some; --exact does not.",
)
@click.option(
    "--combine",
    type=click.Choice(("max", "mean")),
    default="max",
    help="Of a query of several clips, score hits by the nearest, or by the mean over all.",
)
@click.option(
    "--exclude-self/--include-self",
    default=True,
    help="Leave out clips of the query's own video that overlap it.",
)
@click.option("--exact", is_flag=True, help="Compare with every clip instead of asking the index.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    help="How rows are written to stdout. [default: table; with --queries jsonl]",
)
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
    query: str | None,
    queries: str | None,
    k: int | None,
    where: str | None,
    group_by: str,
    merge_gap: float | None,
    min_score: float | None,
    range_from: float | None,
    combine: str,
    exclude_self: bool,
    exact: bool,
    output_format: str | None,
    html: str | None,
    overwrite: bool,
    model: str | None,
    revision: str | None,
    pooling: str | None,
    dtype: str | None,
    device: str | None,
    decoder: str,
) -> int:
    """Find the clips that look most like a query.

    QUERY is a video file (clip.mp4), a moment of one (clip.mp4#t=3,5), a clip or video id of the
    library, or a .npy file of vectors. What the library already holds is found without loading
    a model. Give --queries instead for many: each row of the output says its query, and a query
    that cannot be read is told and passed over.

    Unless the index is exact, --range asks it for more and more hits, until they score less.
    """
    if (query is None) == (queries is None):
        raise UsageError(
            "QUERY and --queries contradict each other: give one of them"
            if query is not None
            else "Missing argument 'QUERY', or option '--queries' for many: give one of them"
        )
    if range_from is not None and (k is not None or min_score is not None):
        raise UsageError(f"--range and {'-k' if k is not None else '--min-score'} contradict each other: give one")
    if html is not None and queries is not None:
        raise UsageError("--html and --queries contradict each other: a page shows one QUERY")
    if html is not None:
        check_page(html, overwrite=overwrite)
    from vmae_embed.library import Library

    opened = Library.open(library)

    def load() -> Encoder:
        from vmae_embed.encoder import Encoder

        made_with = opened.config.encoder
        return Encoder.from_identity(made_with, model, revision=revision, device=device, dtype=dtype, pooling=pooling)

    # A checkpoint or pooling that was named is checked even where the library has the answer.
    encoder: Encoder | Callable[[], Encoder] = load
    if model or revision or pooling:
        encoder = load().cropping_as(opened.config.preprocessing)
        opened.check_comparable(encoder.identity, encoder.preprocessing)
    options: dict[str, Any] = {
        "encoder": encoder,
        "k": None if range_from is not None else 10 if k is None else k,
        "where": where,
        "group_by": group_by,
        "merge_gap": merge_gap,
        "min_score": min_score if range_from is None else range_from,
        "combine": combine,
        "include_self": not exclude_self,
        "exact": exact,
        "decoder": decoder,
    }
    merged = ["clips"] if merge_gap is not None else []
    if queries is not None:
        columns = ["query", "rank", "score", "clip_id", *merged, *opened.config.columns]
        return _search_many(opened, queries, RowWriter(output_format or "jsonl", columns), options)
    from vmae_embed.query import search as find

    assert query is not None
    index = open_index(opened)
    hits = find(index, query, **options)
    if not hits:
        say(f"no hits: {_why_none(hits, options)}")
    several = ["query"] if len(hits.queries) > 1 and combine == "max" else []
    writer = RowWriter(
        output_format or "table", ["rank", "score", "clip_id", *merged, *several, *opened.config.columns]
    )
    writer.write([_row(hit) for hit in hits])
    writer.close()
    if html is not None:
        from vmae_embed.report import write_report

        say(f"page: {write_report(html, hits, title=f'What looks like {query}', overwrite=overwrite)}")
    return 0


def _search_many(library: Library, name: str, writer: RowWriter, options: dict[str, Any]) -> int:
    """Answer a list of queries, as they are read; say which could not be."""
    from vmae_embed.query import open_queries, search_many

    waiting: deque[tuple[str, str]] = deque()
    total = failed = empty = 0
    nothing: Hits | None = None
    with open_queries(name, library.width, sys.stdin.buffer) as listed:

        def noted() -> Iterator[Any]:
            for place, query in listed:
                waiting.append((place, query if isinstance(query, str) else place))
                yield query

        for answer in search_many(open_index(library), noted(), **options):
            place, query = waiting.popleft()
            total += 1
            if isinstance(answer, QueryError):
                failed += 1
                say(_shown(f"{place}: {answer}"))
                continue
            if not answer:
                empty += 1
                nothing = answer
            writer.write([{**_row(hit), "query": _shown(query), "query_clip": hit.query} for hit in answer])
    writer.close()
    if nothing is not None:
        say(f"without hits: {empty:,} of {total:,} queries; {_why_none(nothing, options)}")
    if not total:
        say(f"{name}: holds no query")
    if failed:
        say(f"failed: {failed:,} of {total:,} queries; the lines above say why")
        return EXIT_SOME_FAILED
    return 0


def _why_none(hits: Hits, options: Mapping[str, Any]) -> str:
    if not hits.among:
        return f"no clip fits --where {options['where']!r}"
    if options["min_score"] is not None:
        return f"nothing scores {options['min_score']:g} or more"
    return "what there is overlaps the query itself (--include-self)"


def _row(hit: Hit) -> dict[str, Any]:
    own = {field.name: getattr(hit, field.name) for field in fields(hit) if field.name != "columns"}
    return {**own, **hit.columns}


def _shown(text: str) -> str:
    """A name that output in UTF-8 can hold, as a file's need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
