"""``vmae-embed info``, ``verify`` and ``failures``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.checkpoint import DEMO_MODEL
from vmae_embed.cli import EXIT_FAILED
from vmae_embed.cli.index import describe
from vmae_embed.cli.options import format_option, views_argument
from vmae_embed.cli.output import write_rows

if TYPE_CHECKING:
    from vmae_embed.library import Library


@click.command()
@views_argument
@click.option("--format", "output_format", type=click.Choice(("table", "json")), default="table", help="Of the output.")
def info(library: str, output_format: str) -> None:
    """Say what is in a library and how it was made; of a preset's views, of each."""
    from vmae_embed.views import open_views

    views = open_views(library)
    if output_format == "json":
        each = [_facts(opened) for opened in views.libraries]
        found = each[0] if views.preset is None else {"preset": views.preset.name, "views": each}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for opened in views.libraries:
        if views.preset is not None:
            click.echo(f"{opened.path}: a view of {views.preset.name}")
        facts = _facts(opened)
        runs = opened.config.runs
        facts["last run"] = _describe_run(runs[-1]) if runs else None
        for name, value in facts.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
            click.echo(f"{name:<24}{value if value is not None else '-'}")


def _facts(opened: Library) -> dict[str, Any]:
    from vmae_embed.index import Index
    from vmae_embed.library import bytes_of_tokens

    config = opened.config
    rows = opened.table(["video_id", "start_s", "end_s"])
    failures = Counter(failure.stage for failure in opened.failures())
    hours = float(sum(rows["end_s"].to_numpy() - rows["start_s"].to_numpy())) / 3600
    indexed = describe(Index(opened, opened.index_path)) if Index.is_current(opened) else "none, or behind the clips"
    tokens = None
    if opened.token_shape is not None:
        count, width = opened.token_shape
        size = bytes_of_tokens((len(rows), count, width))
        tokens = f"{count:,} x {width:,} x float16, {size / 1e9:.3f} GB"
    return {
        "clips": len(rows),
        "hours of clips": round(hours, 3),
        "videos": len(rows["video_id"].unique()),
        "failed videos": dict(failures),
        "shards": len(opened.units()),
        "checkpoint": config.encoder["checkpoint"],
        "revision": config.encoder.get("revision"),
        "weights sha256": config.encoder["weights_sha256"],
        "licence of the weights": None if config.imported else _licence(str(config.encoder["checkpoint"])),
        "pooling": config.encoder["pooling"],
        "norm": config.encoder["norm"],
        "precision": config.encoder["precision"],
        "pixels": None if config.imported else "exact" if config.exact_pixels else "fast",
        "embedding": f"{config.encoder['width']} x {config.stored}",
        "tokens": tokens,
        "sampling": config.sampling and str(config.sampling),
        "carried columns": dict(config.columns),
        "labels": None if config.classifier is None else f"of classifier {config.classifier[:12]}",
        "index": indexed,
        "first clip": next(iter(opened.column("clip_id")), None),
        "versions": dict(config.versions),
        "last run": dict(config.runs[-1]) if config.runs else None,
    }


def _describe_run(run: Mapping[str, Any]) -> str:
    if run.get("ended") is None:
        return f"{run.get('started')}, killed or still running"
    shares = {str(name): float(share) for name, share in dict(run.get("shares") or {}).items()}
    if "imported" in run:
        what = f"{run.get('clips')} clips imported from {run['imported']} in {run.get('seconds')} s"
        return f"{run.get('started')}, {str(run['ended'])[:100]}; {what}"
    parts = [
        f"{run.get('started')}, {str(run['ended'])[:100]}",
        f"{run.get('videos')} videos, {run.get('clips')} clips in {run.get('seconds')} s",
        f"decoder {run.get('decoder')}, {run.get('workers')} processes, encoder on {', '.join(run.get('devices', ()))}",
        ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        str(run.get("bound") or ""),
    ]
    return "; ".join(part for part in parts if part)


def _licence(checkpoint: str) -> str:
    if checkpoint.startswith("MCG-NJU/"):
        return "CC-BY-NC-4.0: not for commercial use (the model card on the hub)"
    if checkpoint == DEMO_MODEL:
        return "Apache-2.0: this package's own"
    return "see the checkpoint's model card; VideoMAE's own weights are CC-BY-NC-4.0"


@click.command()
@views_argument
def verify(library: str) -> int:
    """Check that a library is whole, or each of a preset's views.

    Every shard is read and its checksums compared; ids must be unique, vectors finite, and the
    index equal to the shards. Exits with 1 when something is wrong.
    """
    from vmae_embed.index import Index
    from vmae_embed.library import verify as check
    from vmae_embed.views import open_views

    broken = False
    for opened in open_views(library).libraries:
        problems = check(opened)
        if (opened.index_path / "index.json").exists() and not problems:
            problems = Index(opened, opened.index_path).verify()
        for problem in problems:
            click.echo(problem)
        if not problems:
            click.echo(f"{opened.path}: whole; {len(opened):,} clips in {len(opened.units()):,} shards")
        broken |= bool(problems)
    return EXIT_FAILED if broken else 0


@click.command()
@views_argument
@format_option
def failures(library: str, output_format: str) -> None:
    """List the videos that gave no clips, and why; of a preset's views, of any."""
    from vmae_embed.views import open_views

    found = {failure.video_id: failure for opened in open_views(library).libraries for failure in opened.failures()}
    rows = [asdict(failure) for _, failure in sorted(found.items())]
    write_rows(rows, output_format, ["video_id", "stage", "seconds", "reason"])
