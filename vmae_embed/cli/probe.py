"""``vmae-embed probe``: what frozen features are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli.options import combine, device_option, views_argument
from vmae_embed.cli.output import StageProgress, count_of, say, tell_unmatched
from vmae_embed.cli.tokens import features_for, tell_difference
from vmae_embed.errors import UsageError
from vmae_embed.pages import check_page, write_page

if TYPE_CHECKING:
    from vmae_embed.intervals import Estimate
    from vmae_embed.library import Library
    from vmae_embed.probing import Evaluation, Rows, Unmatched
    from vmae_embed.views import Views

_ATTENTIVE = "attentive"
_KINDS = ("linear", "knn", _ATTENTIVE)
_BY_DEFAULT = ("linear", "knn")


_label_options = combine(
    click.option(
        "--labels",
        metavar="FILE|folders",
        help="CSV, TSV or Parquet: clip_id, video_id or path, and labels; or the names of the videos' folders. "
        "[default: a column that the library carries]",
    ),
    click.option("--label", default="label", metavar="COLUMN", help="Column of the labels."),
    click.option(
        "--group",
        metavar="COLUMN",
        help="Column whose groups stay on one side of a split. [default: the video]",
    ),
)


_probe_options = combine(
    click.option(
        "--norm",
        type=click.Choice(("batch", "l2", "none")),
        default="batch",
        help="Of the linear probe: scale features to mean 0 and variance 1, rows to length 1, or nothing.",
    ),
    click.option(
        "--l2",
        metavar="STRENGTH,...",
        help="Of the linear probe: scikit-learn's 1/C; of several, one is chosen on training clips. "
        "[default: seven from 100000 to 0.1]",
    ),
    click.option(
        "--k",
        "neighbours",
        default="10,20,100,200",
        metavar="K,...",
        help="Of k-NN: neighbours that vote; of several, one is chosen on training clips.",
    ),
    click.option("--temperature", type=float, default=0.07, metavar="T", help="Of k-NN's votes."),
    click.option("--device", metavar="DEVICE", help="That fits probes. [default: a GPU if there is one]"),
    click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of splits, draws and intervals."),
)


class _Verbs(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            raise click.UsageError(
                f"{args[0]}: give evaluate, fit or score first, as in `vmae-embed probe evaluate LIB`", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs)
def probe() -> None:
    """Judge a library's embeddings by labels: frozen features, small probes, splits that do not leak."""


@probe.command()
@views_argument
@_label_options
@click.option(
    "--probe",
    "kinds",
    type=click.Choice(_KINDS),
    multiple=True,
    help="Which; give it again for more. attentive reads tokens: where the library stores none, it decodes and "
    "encodes the videos again. [default: linear and knn]",
)
@click.option(
    "--folds", type=click.IntRange(2), default=5, metavar="N", help="Folds, where the labels have no column split."
)
@click.option(
    "--few-shot",
    "shots",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="Also fit to N clips a class, drawn five times; give it again for more.",
)
@click.option("--compare", metavar="LIBRARY", help="Another library of the same videos, to put beside it.")
@_probe_options
@click.option("--html", metavar="FILE", help="Also write a page: confusion matrix, classes, the surest mistakes.")
@click.option("--report", metavar="FILE", help="Also write all figures as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace the page and the report if they exist.")
@click.option("--format", "output_format", type=click.Choice(("table", "json")), default="table", help="Of the output.")
def evaluate(
    library: str,
    labels: str | None,
    label: str,
    group: str | None,
    kinds: tuple[str, ...],
    folds: int,
    shots: tuple[int, ...],
    compare: str | None,
    html: str | None,
    report: str | None,
    overwrite: bool,
    output_format: str,
    seed: int,
    **settings: Any,
) -> None:
    """Fit probes to some of a library's clips and judge them on the others.

    Every clip is judged by a probe that saw no clip of its group. Figures are over clips, and over
    videos by the mean of their clips' probabilities; each with a 95% interval over videos.
    """
    for name in (html, report):
        if name is not None:
            check_page(name, overwrite=overwrite)
    from vmae_embed.probing import differences, evaluate_probes, to_dict, write_probe_page
    from vmae_embed.views import open_views

    makers = {kind: _maker(kind, seed=seed, **settings) for kind in kinds or _BY_DEFAULT}
    options: dict[str, Any] = {"folds": folds, "shots": shots, "seed": seed}
    evaluations: list[Evaluation] = []
    # Both are read, and refused, before anything is fitted to the first.
    opened = [open_views(name) for name in (library, *([compare] if compare else []))]
    read = [_read(views, labels, label, group) for views in opened]
    for views, (rows, _) in zip(opened, read, strict=True):
        options["grouped_by"] = _grouping(views, group)
        with features_for(kinds, views, rows, device=settings["device"]) as features, StageProgress() as progress:
            like = evaluations[0] if evaluations else None
            evaluations.append(evaluate_probes(views, features, makers, **options, like=like, observe=progress))
        _tell_thin(rows, folds)
    compared = differences(*evaluations, seed=seed) if compare else {}
    result, *others = (
        {**to_dict(evaluation), "unmatched": asdict(unmatched)}
        for evaluation, (_, unmatched) in zip(evaluations, read, strict=True)
    )
    if compare:
        (result["compared_with"],) = others
        result["differences"] = {
            name: {**asdict(found.value), "p": found.p, "videos": found.videos} for name, found in compared.items()
        }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if output_format == "json":
        click.echo(text)
    else:
        for evaluation in evaluations:
            _print(evaluation)
        if compared:
            click.echo(f"top-1 over videos, {opened[0].path} less {opened[1].path}")
        for name, found in compared.items():
            click.echo(f"{name:<28}{found.value}, paired test p = {found.p:.4f}")
    if report is not None:
        write_page(Path(report), text + "\n")
        say(f"report: {report}")
    if html is not None:
        title = " and ".join(evaluation.library.path.resolve().name for evaluation in evaluations)
        page = write_probe_page(html, evaluations, compared, title=f"Probes of {title}", overwrite=overwrite)
        say(f"page: {page}")


@probe.command()
@views_argument
@_label_options
@click.option("-o", "--out", required=True, metavar="PROBE", help="Directory to write the probe to.")
@click.option("--probe", "kind", type=click.Choice(_KINDS), default="linear", help="Which.")
@_probe_options
@click.option("--overwrite", is_flag=True, help="Replace an earlier probe.")
def fit(
    library: str,
    labels: str | None,
    label: str,
    group: str | None,
    out: str,
    kind: str,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Fit a probe to all labelled clips and keep it: for `probe score` and `predict`.

    Rows of a split called test are left out.
    """
    from vmae_embed.probes import check_folder, save_probe
    from vmae_embed.probing import fit_probe
    from vmae_embed.views import open_views

    check_folder(out, overwrite=overwrite)
    fitted = _maker(kind, **settings)()
    views = open_views(library)
    rows = _read(views, labels, label, group)[0].of_side(test=False)
    with features_for([kind], views, rows, device=settings["device"]) as features:
        clips = fit_probe(fitted, features)
        used = features.clips
    about = {"library": str(views.path), "clips": clips, "label": label, "group": _grouping(views, group)}
    about["preset"] = views.preset and views.preset.name
    names = (used.column(name).to_pylist() for name in ("video_id", "fingerprint"))
    save_probe(out, fitted, views.config, fitted_to=about, videos=zip(*names, strict=True), overwrite=overwrite)
    chosen = fitted.to_dict()
    setting = next(f"{words} {chosen[name]:g}" for name, words in _CHOSEN.items() if name in chosen)
    click.echo(f"{out}: {kind} probe, {setting}, {len(fitted.classes_)} classes, fitted to {count_of(clips, 'clip')}")


@probe.command()
@click.argument("probe_folder", metavar="PROBE")
@views_argument
@_label_options
@device_option
@click.option("--format", "output_format", type=click.Choice(("table", "json")), default="table", help="Of the output.")
def score(
    probe_folder: str,
    library: str,
    labels: str | None,
    label: str,
    group: str | None,
    device: str | None,
    output_format: str,
) -> None:
    """Judge a kept probe on another library's labelled clips.

    The library must be of the same encoder. Videos that the probe was fitted to are told. Of a
    split, only the rows called test are asked about.
    """
    from vmae_embed.encoder import check_device
    from vmae_embed.probes import load_probe
    from vmae_embed.probing import score_probe
    from vmae_embed.views import open_views

    saved, views = load_probe(probe_folder, device=str(check_device(device))), open_views(library)
    saved.check(views.libraries[0])
    tell_difference(saved, views)
    rows = _read(views, labels, label, group)[0].of_side(test=True)
    if known := saved.seen(rows.clips.column("video_id").to_pylist(), rows.clips.column("fingerprint").to_pylist()):
        say(f"the probe was fitted to {count_of(known, 'video')} of these: this is no test of it")
    with features_for([saved.kind], views, rows, device=device) as features:
        result = score_probe(saved, features)
    tell_unmatched(result.unknown, "labels are none that the probe knows: it is wrong about all of their clips")
    if output_format == "json":
        figures = {unit: {name: asdict(one) for name, one in found.items()} for unit, found in result.figures.items()}
        click.echo(json.dumps({"probe": probe_folder, "library": library, **figures}, indent=2, ensure_ascii=False))
        return
    click.echo(_describe(views, rows))
    _print_head()
    for unit, found in result.figures.items():
        _print_line(saved.kind, unit.removeprefix("by_") + "s", found)


def _maker(
    kind: str, *, norm: str, l2: str | None, neighbours: str, temperature: float, device: str | None, seed: int
) -> Callable[[], Any]:
    from vmae_embed.probes import STRENGTHS, AttentiveProbe, KNNProbe, LinearProbe

    if kind == "knn":
        numbers = _numbers("--k", neighbours)
        counts = [int(number) for number in numbers]
        if counts != numbers:
            raise UsageError(f"--k {neighbours}: give whole numbers")
        if temperature <= 0:
            raise UsageError(f"--temperature {temperature:g}: give a number above 0")
        return lambda: KNNProbe(k=counts, temperature=temperature)
    from vmae_embed.encoder import check_device

    where = str(check_device(device))
    if kind == _ATTENTIVE:
        return lambda: AttentiveProbe(device=where, seed=seed)
    strengths = _numbers("--l2", l2) if l2 else STRENGTHS
    return lambda: LinearProbe(l2=strengths, norm=norm, device=where, seed=seed)


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(value) for value in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise UsageError(f"{option} {text}: give numbers above 0, with commas between them")
    return numbers


def _read(views: Views, labels: str | None, label: str, group: str | None) -> tuple[Rows, Unmatched]:
    from vmae_embed.probing import labelled_views

    rows, unmatched = labelled_views(views, labels, label=label, group=group)
    tell_unmatched(unmatched.keys, "rows of the labels fit no clip of the library")
    tell_unmatched(unmatched.videos, "videos of the library have no label")
    tell_unmatched(unmatched.partial, "videos are not in every view, and are left out")
    return rows, unmatched


def _tell_thin(rows: Rows, folds: int) -> None:
    """Name classes that some folds do not test, and that are rare where they are."""
    groups: dict[Any, set[str]] = {}
    for label, group in zip(rows.truth, rows.groups, strict=True):
        groups.setdefault(label, set()).add(group)
    if rows.sides is None:
        thin = [label for label, held in groups.items() if len(held) < folds]
        tell_unmatched(thin, f"classes have fewer groups than {folds} folds, which makes their figures unsure")


def _grouping(views: Views, group: str | None) -> str:
    by_name = views.preset is not None and views.preset.recording is not None
    return group or ("recording, by file name" if by_name else "video")


def _print(evaluation: Evaluation) -> None:
    click.echo(f"{_describe(evaluation.library, evaluation.rows)}; {evaluation.split}")
    _print_head()
    for result in evaluation.results:
        _print_line(result.name, "clips", result.clip_figures)
        _print_line(result.name, "videos", result.video_figures)
    first = evaluation.results[0]
    click.echo(f"{'majority baseline':<20}{'videos':<8}{first.majority(first.videos):.4f}")
    click.echo(f"{'chance':<28}{first.chance:.4f}\n")


def _describe(library: Library | Views, rows: Rows) -> str:
    videos = len(set(rows.clips["video_id"].to_pylist()))
    clips = f"{count_of(len(rows.truth), 'clip')} of {count_of(videos, 'video')}"
    return f"{library.path}: {clips}, {len(set(rows.truth))} classes"


def _print_head() -> None:
    click.echo(f"{'probe':<20}{'of':<8}{'top-1':<28}{'top-5':<9}{'per class':<11}{'macro F1':<10}calibration error")


def _print_line(name: str, unit: str, figures: dict[str, Estimate]) -> None:
    others = "".join(f"{figures[measure].value:<{width}.4f}" for measure, width in _OTHERS)
    click.echo(f"{name:<20}{unit:<8}{figures['top1']!s:<28}{others}".rstrip())


# What a probe chose, and how to say it.
_CHOSEN = {"l2": "l2", "k": "k", "learning_rate": "learning rate"}
_OTHERS: Sequence[tuple[str, int]] = (("top5", 9), ("mean_per_class", 11), ("macro_f1", 10), ("ece", 0))
