"""A page that shows a sweep: recall against speed, as a plot and as a table."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_embed.evaluation.sweeping import SMALLEST, Point, Sweep
from vmae_embed.pages import check_page, render_page, render_table, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart; each with a mark of its own as well.
_LOOKS = (("#000000", "*"), ("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))

_FORMATS = {
    **dict.fromkeys(("recall@10", "low", "high"), ".4f"),
    **dict.fromkeys(("p50_ms", "p99_ms"), ",.2f"),
    **dict.fromkeys(("queries_per_s", "bytes_per_vector"), ",.0f"),
    "build_s": ",.1f",
}


def sweep_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Make a flat row of each point, for tables and files."""
    return [
        {
            "kind": point.kind,
            "factory": point.factory,
            "nprobe": point.nprobe,
            "candidates": point.candidates,
            "recall@10": point.recall.value,
            "low": point.recall.low,
            "high": point.recall.high,
            "p50_ms": point.speed.p50_ms,
            "p99_ms": point.speed.p99_ms,
            "queries_per_s": point.speed.per_s,
            "bytes_per_vector": point.bytes_per_vector,
            "build_s": point.build_s,
        }
        for point in sweep.points
    ]


def sweep_notes(sweep: Sweep) -> list[str]:
    """Say what the reader of a sweep must know, a line each."""
    notes = [f"{kind} is left out: {why}" for kind, why in sweep.left_out.items()]
    if sweep.clips < SMALLEST:
        notes.append(
            f"below {SMALLEST:,} clips every index is fast and these curves mean little; "
            f"the library holds {sweep.clips:,}"
        )
    return notes


def write_sweep(path: str | Path, sweep: Sweep, *, title: str, overwrite: bool = False) -> Path:
    """Write a page that needs no other file.

    Args:
        path: of the page.
        sweep: to show.
        title: of the page.
        overwrite: replace a file of that name.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    page = check_page(path, overwrite=overwrite)
    rows, seen = [], ""
    for row in sweep_rows(sweep):
        cells = "".join(f"<td>{html.escape(_cell(name, value))}</td>" for name, value in row.items())
        rows.append(f"<tr{'' if row['kind'] == seen else ' class=first'}>{cells}</tr>")
        seen = row["kind"]
    about = (
        f"{sweep.clips:,} clips, {sweep.queries:,} queries, {os.cpu_count()} processors. Recall is the share of the "
        "10 nearest clips that a search for 10 finds, with its 95% interval. Along a curve, each point visits twice "
        "the cells of the one before."
    )
    text = render_page(
        "sweep",
        title=title,
        about=about,
        notes=sweep_notes(sweep),
        plot=_plot(sweep.points),
        table=render_table(
            "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in sweep_rows(sweep)[0]), "\n".join(rows)
        ),
    )
    return write_page(page, text)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return format(value, _FORMATS[name]) if isinstance(value, float) else str(value)


def _plot(points: Sequence[Point]) -> str:
    """Draw recall against the time of a query, and against queries a second, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    # Text stays text, and the same figures give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vmae-embed", "font.family": "sans-serif"}):
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for (kind, curve), (colour, mark) in zip(groupby(points, lambda point: point.kind), _LOOKS, strict=False):
            found = list(curve)
            _draw(left, found, [point.speed.p50_ms for point in found], kind, colour, mark)
            _draw(right, found, [point.speed.per_s for point in found], kind, colour, mark)
        left.set(xlabel="median of single queries, milliseconds", ylabel="recall@10")
        right.set(xlabel="queries a second, in batches")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(visible=True, color="#0000001a", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(_LOOKS), frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _draw(axes: Axes, points: Sequence[Point], at: Sequence[float], kind: str, colour: str, mark: str) -> None:
    recalls = [point.recall.value for point in points]
    axes.plot(at, recalls, color=colour, marker=mark, markersize=5, linewidth=1.4, label=kind)
    for x, point in zip(at, points, strict=True):
        if point.recall.low is not None and point.recall.high is not None:
            axes.plot([x, x], [point.recall.low, point.recall.high], color=colour, linewidth=0.8, alpha=0.6)
