"""``vmae-embed probe``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vmae_embed.cli.options import library_argument
from vmae_embed.cli.output import tell_unmatched
from vmae_embed.errors import ProbeError, UsageError


@click.command()
@library_argument
@click.option(
    "--labels",
    required=True,
    metavar="FILE",
    help="CSV, TSV or Parquet: clip_id, video_id or path, and labels.",
)
@click.option("--label", default="label", metavar="COLUMN", help="Column of the labels.")
@click.option(
    "--group",
    metavar="COLUMN",
    help="Column whose groups stay on one side of the split. [default: the video]",
)
@click.option("--test-fraction", type=float, default=0.25, metavar="SHARE", help="Share of the clips to test on.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the split.")
@click.option("--l2", type=float, default=1.0, metavar="STRENGTH", help="Regularisation: scikit-learn's 1/C.")
@click.option("--format", "output_format", type=click.Choice(("table", "json")), default="table", help="Of the output.")
def probe(
    library: str,
    labels: str,
    label: str,
    group: str | None,
    test_fraction: float,
    seed: int,
    l2: float,
    output_format: str,
) -> None:
    """Judge a library's embeddings with a linear probe on labels.

    Logistic regression on frozen, standardised embeddings; no group is both trained on and tested.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"--test-fraction {test_fraction:g}: give a share between 0 and 1")
    from vmae_embed.labels import majority_baseline, per_class_accuracy, read_labels, split_by_group
    from vmae_embed.library import Library
    from vmae_embed.probe import LinearProbe

    opened = Library.open(library)
    table = opened.table(["clip_id", "video_id", "path"])
    matched = read_labels(Path(labels), label=label, group=group).match(
        *(table[n].to_pylist() for n in table.column_names)
    )
    tell_unmatched(matched.unmatched_keys, "rows of the labels fit no clip of the library")
    tell_unmatched(matched.unlabelled_videos, "videos of the library have no label")
    rows = matched.labelled_rows
    if not len(rows):
        raise ProbeError(
            f"{labels}: none of its rows fits a clip of {library}; compare with `vmae-embed info {library}`"
        )
    truth = [value for value in matched.labels if value is not None]
    train, test = split_by_group(truth, [matched.groups[row] for row in rows], test_fraction=test_fraction, seed=seed)
    embeddings = opened.embeddings()[rows]
    fitted = LinearProbe(l2=l2).fit(embeddings[train], [truth[i] for i in train])
    expected = [truth[i] for i in test]
    predicted = [value.item() if hasattr(value, "item") else value for value in fitted.predict(embeddings[test])]
    per_class = per_class_accuracy(expected, predicted)
    tell_unmatched(
        tuple(sorted({str(truth[i]) for i in test} - {str(truth[i]) for i in train})),
        "classes are tested that the probe was not trained on, for want of groups",
    )
    untested = {str(value) for value in truth} - {str(value) for value in expected}
    tell_unmatched(tuple(sorted(untested)), "classes have too few groups to be tested")
    result = {
        "top1": sum(a == b for a, b in zip(expected, predicted, strict=True)) / len(expected),
        "majority_baseline": majority_baseline([truth[i] for i in train], expected),
        "mean_per_class": sum(right / total for right, total in per_class.values()) / len(per_class),
        "classes": len(set(truth)),
        "classes_tested": len(per_class),
        "train_clips": len(train),
        "test_clips": len(test),
        "groups": group or "video",
        "per_class": {str(name): right / total for name, (right, total) in sorted(per_class.items(), key=str)},
    }
    if output_format == "json":
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    split = f"{len(test):,} clips, trained on {len(train):,}; split by {group or 'video'}"
    click.echo(f"top-1               {result['top1']:.4f}   ({split})")
    click.echo(
        f"mean per class      {result['mean_per_class']:.4f}   ({len(per_class)} of {result['classes']} classes tested)"
    )
    click.echo(f"majority baseline   {result['majority_baseline']:.4f}")
    for name, (right, total) in sorted(per_class.items(), key=str):
        click.echo(f"  {name!s:<28}{right / total:.4f}   {right} of {total}")
