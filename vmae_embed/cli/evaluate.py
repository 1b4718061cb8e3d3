"""``vmae-embed evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli.index import open_index
from vmae_embed.cli.options import library_argument
from vmae_embed.cli.output import StageProgress, count_of, say, tell_unmatched, write_rows
from vmae_embed.errors import UsageError
from vmae_embed.pages import check_page

if TYPE_CHECKING:
    from vmae_embed.evaluation import Agreement, Queries, Retrieval, Speed
    from vmae_embed.index import Index
    from vmae_embed.library import Library


@click.command()
@library_argument
@click.option(
    "--queries",
    default="1000",
    metavar="N|FILE",
    help="How many clips of the library to ask for, drawn one a video first; or a .npy file of vectors (Q, D) "
    "that are not in it.",
)
@click.option(
    "--self",
    "leave_out",
    type=click.Choice(("video", "clip")),
    default="video",
    help="What may not answer a query of the library: its whole video, or the clip alone.",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Also judge the neighbours by labels: CSV, TSV or Parquet with clip_id, video_id or path.",
)
@click.option(
    "--label",
    metavar="COLUMN",
    help='Column of the labels; without --labels, one that the library carries. [default: "label"]',
)
@click.option(
    "--sweep",
    "sweeping",
    is_flag=True,
    help="Instead: build several kinds of index in a temporary folder, and weigh recall@10 against speed.",
)
@click.option("--html", metavar="FILE", help="Also write the sweep as a page with its plot.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the queries that are drawn.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(("table", "json", "csv")),
    default="table",
    help="Of the output; csv is for --sweep.",
)
def evaluate(
    library: str,
    queries: str,
    leave_out: str,
    labels: str | None,
    label: str | None,
    sweeping: bool,
    html: str | None,
    overwrite: bool,
    seed: int,
    output_format: str,
) -> None:
    """Measure a library's index against exact search, and its neighbours against labels.

    Recall is the share of the K nearest clips that a search for K hits returns. With labels:
    precision and mean average precision of an exact search, each query's own video left out.
    Every figure has its 95% interval; docs/evaluation.md says what they mean.
    """
    from vmae_embed.evaluation import evaluate_index
    from vmae_embed.library import Library

    count = _parse_count(queries)
    if (labels or label) and (count is None or sweeping):
        what = "--sweep compares indexes" if sweeping else f"--queries {queries} are no clips of the library"
        raise UsageError(f"{what}: judge by labels in a call of its own")
    if not sweeping and (html or output_format == "csv"):
        raise UsageError(f"{'--html' if html else '--format csv'}: only of a --sweep; add it, or use --format json")
    if html is not None:
        check_page(html, overwrite=overwrite)
    opened = Library.open(library)
    draw = _drawing(queries, count, leave_out, seed)
    if sweeping:
        _sweep(opened, draw, seed, output_format, html, overwrite)
        return
    index = open_index(opened)
    asked = draw(index)
    judged = _judge(index, labels, label, count or 0, seed)
    retrieval = evaluate_index(index, asked)
    left_out = "nothing" if count is None else leave_out
    if output_format == "json":
        result = _as_json(index, asked, retrieval, left_out)
        if judged is not None:
            result["labels"] = _agreement_as_json(judged)
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    _print_retrieval(index, asked, retrieval, left_out)
    if judged is not None:
        _print_agreement(judged)


def _parse_count(queries: str) -> int | None:
    """A number of queries; None for a file of them."""
    if queries.lower().endswith(".npy"):
        return None
    try:
        count = int(queries)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(f"--queries {queries}: give a whole number from 1 on, or a .npy file")
    return count


def _drawing(queries: str, count: int | None, leave_out: str, seed: int) -> Callable[[Index], Queries]:
    from vmae_embed.evaluation import of_vectors, sample_queries

    if count is not None:
        return lambda index: sample_queries(index, count, leave_out=leave_out, seed=seed)
    from vmae_embed.query import load_array

    vectors = load_array(queries)
    return lambda index: of_vectors(index, vectors, Path(queries).name)


def _sweep(
    library: Library,
    draw: Callable[[Index], Queries],
    seed: int,
    output_format: str,
    html: str | None,
    overwrite: bool,
) -> None:
    from vmae_embed.evaluation import sweep, sweep_notes, sweep_rows, write_sweep

    with StageProgress() as progress:
        swept = sweep(library, draw, seed=seed, observe=progress)
    for note in sweep_notes(swept):
        say(note)
    columns = ["factory", "nprobe", "recall@10", "low", "high", "p50_ms", "p99_ms", "queries_per_s", "bytes_per_vector"]
    write_rows(sweep_rows(swept), output_format, columns)
    if html is not None:
        title = f"Recall against speed: {library.path.resolve().name}"
        say(f"page: {write_sweep(html, swept, title=title, overwrite=overwrite)}")


def _judge(index: Index, file: str | None, column: str | None, queries: int, seed: int) -> Agreement | None:
    from vmae_embed.evaluation import agreement, matched_labels
    from vmae_embed.labels import carried_labels

    if file is None and column is None:
        return None
    if file is None:
        labels = carried_labels(index.clips, index.library.config.columns, column or "")
    else:
        labels, matched = matched_labels(index, Path(file), column or "label")
        tell_unmatched(matched.unmatched_keys, "rows of the labels fit no clip of the library")
        tell_unmatched(matched.unlabelled_videos, "videos of the library have no label")
    judged = agreement(index, labels, queries=queries, seed=seed)
    tell_unmatched(judged.alone, "labels are on one video only: their clips can be found, but not asked for")
    return judged


def _as_json(index: Index, asked: Queries, retrieval: Retrieval, left_out: str) -> dict[str, Any]:
    about = index.about
    return {
        "clips": len(index),
        "queries": len(asked),
        "query_videos": len(set(asked.videos.tolist())),
        "left_out": left_out,
        "index": {
            "metric": index.metric,
            **{name: about[name] for name in ("factory", "nprobe", "candidates_a_hit", "bytes_per_vector")},
        },
        "recall": {str(k): {**asdict(value), "of": min(k, retrieval.there)} for k, value in retrieval.recall.items()},
        "speed": asdict(retrieval.speed),
        "exact_speed": asdict(retrieval.exact_speed),
    }


def _agreement_as_json(judged: Agreement) -> dict[str, Any]:
    return {
        "clips": judged.clips,
        **asdict(judged.overall),
        "by_label": {str(name): asdict(measured) for name, measured in judged.by_label.items()},
        "on_one_video_only": [str(name) for name in judged.alone],
    }


def _print_retrieval(index: Index, asked: Queries, retrieval: Retrieval, left_out: str) -> None:
    about = index.about
    effort = (
        "" if index.effort is None else f", nprobe {index.effort.nprobe}, {index.effort.candidates} candidates a hit"
    )
    click.echo(f"index               {about['factory']} of {count_of(len(index), 'clip')}, {index.metric}{effort}")
    click.echo(f"bytes a vector      {about['bytes_per_vector']:,.0f} in memory")
    left = {"video": "; their own videos left out", "clip": "; they themselves left out"}.get(left_out, "")
    videos = "" if left_out == "nothing" else f" of {count_of(len(set(asked.videos.tolist())), 'video')}"
    click.echo(f"queries             {len(asked):,}{videos}{left}")
    if index.effort is not None:
        tuned = about["recall"]
        click.echo(
            f"when it was tuned   recall@{tuned['at']} {tuned['measured']:.4f}, of videos that are not in the library: "
            "searches for what is in it go deeper, as they find themselves"
        )
    for k, value in retrieval.recall.items():
        of = f"   (there are {retrieval.there})" if retrieval.there < k else ""
        click.echo(f"{f'recall@{k}':<20}{value}{of}")
    _print_speed("one query", retrieval.speed)
    _print_speed("exact search", retrieval.exact_speed)


def _print_speed(name: str, speed: Speed) -> None:
    click.echo(
        f"{name:<20}{speed.p50_ms:.2f} ms, one in 100 over {speed.p99_ms:.2f} ms ({speed.timed:,} timed); "
        f"in batches {speed.per_s:,.0f}/s"
    )


def _print_agreement(judged: Agreement) -> None:
    overall = judged.overall
    click.echo(f"\nlabels              {overall.queries:,} queries among {judged.clips:,} labelled clips")
    for name, value in overall.measured.items():
        click.echo(f"{name:<20}{value}   by chance {overall.chance[name]:.4f}")
    click.echo(f"\n{'label':<28}{'queries':>9}   {'precision@10':<28}{'mAP':<28}by chance")
    for label, measured in judged.by_label.items():
        cells = "".join(f"{measured.measured[name]!s:<28}" for name in ("precision@10", "mAP"))
        click.echo(f"{label!s:<28}{measured.queries:>9,}   {cells}{measured.chance['mAP']:.4f}")
