"""One self-contained page: figures, a confusion matrix, accuracy by class, and the surest mistakes as frame strips."""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmae_embed.errors import DecodeError
from vmae_embed.intervals import Estimate
from vmae_embed.pages import check_page, render_page, render_table, write_page
from vmae_embed.previews import sprite_of
from vmae_embed.probing.measures import Difference
from vmae_embed.probing.suite import Evaluation, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES = 8
# Names beside a confusion matrix are legible up to so many classes.
_NAMED = 60
_LONGEST = 24
_COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean per class",
    "macro_f1": "macro F1",
    "ece": "calibration error",
}
_HEAD = ("library", "probe", "of", *_COLUMNS.values(), "majority", "chance")


def write_probe_page(
    path: str | Path,
    evaluations: Sequence[Evaluation],
    compared: Mapping[str, Difference] | None = None,
    *,
    title: str,
    overwrite: bool = False,
) -> Path:
    """Write a page that needs no other file.

    Args:
        path: of the page.
        evaluations: of one library, or of two of the same videos.
        compared: by result's name, where there are two.
        title: of the page.
        overwrite: replace a file of that name.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    page = check_page(path, overwrite=overwrite)
    first = evaluations[0]
    best = max(first.results, key=lambda result: (result.shots is None, result.video_figures["top1"].value))
    rows = first.rows
    about = (
        f"{len(rows.truth):,} clips of {len(set(rows.clips['video_id'].to_pylist())):,} videos, "
        f"{len(set(rows.truth)):,} classes; {first.split}. A video's answer is the mean of its clips'. "
        "Below each figure: its 95% bootstrap interval over videos."
    )
    text = render_page(
        "probe",
        title=title,
        about=about,
        table=render_table(
            "".join(f"<th>{name}</th>" for name in _HEAD),
            "\n".join(row for evaluation in evaluations for row in _rows(evaluation)),
        ),
        made=_made(evaluations),
        compared=_compared(compared, evaluations),
        which=html.escape(f"{best.name} probe of {first.library.path.resolve().name}, the best over videos"),
        confusion=_svg(_confusion(best)),
        classes=_svg(_bars(best)),
        mistakes="\n".join(_mistakes(first, best)) or "<p>None: every video was named rightly.</p>",
    )
    return write_page(page, text)


def _rows(evaluation: Evaluation) -> list[str]:
    name = html.escape(evaluation.library.path.resolve().name)
    lines = []
    for result in evaluation.results:
        for unit, judged, figures in (
            ("clips", result.clips, result.clip_figures),
            ("videos", result.videos, result.video_figures),
        ):
            cells = [name, html.escape(result.name), unit, *(_text(figures[measure]) for measure in _COLUMNS)]
            cells += [f"{result.majority(judged):.3f}", f"{result.chance:.3f}"]
            lines.append(f"<tr class={unit}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return lines


def _text(interval: Estimate) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"<b>{interval.value:.3f}</b> <small>{interval.low:.3f} to {interval.high:.3f}</small>"


def _made(evaluations: Sequence[Evaluation]) -> str:
    """What made each library."""
    lines = []
    for evaluation in evaluations:
        config = evaluation.library.config
        name, preset = evaluation.library.path.resolve().name, evaluation.preset
        cut = f"views of {preset.name}" if preset is not None else str(config.sampling or "imported vectors")
        facts = f"{config.encoder['checkpoint']}, {config.encoder['pooling']} pooling, {cut}"
        lines.append(f"<li><b>{html.escape(name)}</b>: {html.escape(facts)}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _compared(compared: Mapping[str, Difference] | None, evaluations: Sequence[Evaluation]) -> str:
    names = [html.escape(evaluation.library.path.resolve().name) for evaluation in evaluations]
    lines = [
        f"<li>{html.escape(name)}: top-1 over videos differs by {difference.value}, "
        f"paired permutation test p = {difference.p:.4f}, {difference.videos:,} videos</li>"
        for name, difference in (compared or {}).items()
    ]
    return f"<h2>{' less '.join(names)}</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _svg(figure: Figure) -> str:
    import matplotlib

    # Text stays text, of whatever fonts a reader has, and the same figures give the same bytes.
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vmae-embed", "font.family": "sans-serif"}),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _short(label: object) -> str:
    """A label as plots have room for."""
    name = str(label)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 2]}.."


def _confusion(result: Result) -> Figure:
    """Draw the share of each class's videos that were given each label."""
    from matplotlib.figure import Figure

    names, judged = [_short(label) for label in result.answers.classes], result.videos
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (judged.truth, judged.predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3.2 + 0.3 * len(names), 12)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="truth")
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= 20:
        for truth, answer in np.argwhere(counts > 0):
            colour = "white" if shares[truth, answer] > 0.5 else "black"
            text = f"{counts[truth, answer]:g}"
            axes.text(answer, truth, text, ha="center", va="center", fontsize=8, color=colour)
    return figure


def _bars(result: Result) -> Figure:
    """Draw the share of each class's videos that are right, best first."""
    from matplotlib.figure import Figure

    found = sorted(result.per_class().items(), key=lambda item: -item[1][0])
    figure = Figure(figsize=(6, min(1.2 + 0.24 * len(found), 14)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(found)), [share for _, (share, _) in found], color="#0072b2")
    if len(found) <= _NAMED:
        axes.set_yticks(range(len(found)), [f"{_short(name)} ({count:g})" for name, (_, count) in found], fontsize=8)
    axes.axvline(result.chance, color="#d55e00", linewidth=1)
    axes.set(xlim=(0, 1), xlabel="share of videos that are right; the line is chance")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _mistakes(evaluation: Evaluation, result: Result) -> list[str]:
    """Show the videos that were named wrongly with the most certainty, by the first of their clips."""
    judged, classes = result.videos, result.answers.classes
    confidence = judged.probabilities.max(axis=1)
    wrong = np.flatnonzero((judged.predicted != judged.truth) & (judged.repeats == 0))
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    lines = []
    for place in shown.tolist():
        (clip,) = evaluation.rows.clips.slice(int(judged.rows[place]), 1).to_pylist()
        try:
            sprite = sprite_of(clip["path"], clip["start_s"], clip["end_s"], clip["fingerprint"])
            picture = f"<img src='{sprite.uri}' alt='frames of {html.escape(clip['video_id'], quote=True)}'>"
        except DecodeError as error:
            picture = f"<p class='gone'>{html.escape(str(error))}</p>"
        said, truth = (html.escape(str(classes[codes[place]])) for codes in (judged.predicted, judged.truth))
        caption = f"<b>{said}</b> with {confidence[place]:.2f}; it is <b>{truth}</b> · {html.escape(clip['video_id'])}"
        lines.append(f"<figure><div class='strip'>{picture}</div><figcaption>{caption}</figcaption></figure>")
    return lines
