"""Rows to stdout, as people or programs want them; progress to stderr."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from vmae_embed.pipeline import Progress
from vmae_embed.plan import Plan

_LINE_EVERY_S = 10.0


def write_rows(rows: Sequence[Mapping[str, Any]], output_format: str, columns: Sequence[str]) -> None:
    """Write rows to stdout.

    Args:
        rows: to write.
        output_format: one of `vmae_embed.cli.options.FORMATS`.
        columns: of a table, in order; the other formats write all.
    """
    if output_format == "json":
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False, default=str))
    elif output_format == "jsonl":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False, default=str))
    elif output_format == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _write_table([[_text(row.get(name)) for name in columns] for row in rows], columns)


def _text(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def _write_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    widths = [max(len(name), *(len(row[i]) for row in rows)) if rows else len(name) for i, name in enumerate(columns)]
    for row in [list(columns), *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(message: str) -> None:
    """Write a line to stderr."""
    click.echo(message, err=True)


def count_of(count: int, noun: str, plural: str = "s") -> str:
    """Say how many: ``1 video``, ``2,000 videos``."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"


class ProgressBar:
    """Videos done, clips a second and time left, on stderr; a line every ten seconds where it is no terminal.

    The bar and the time left go by the bytes of the files: videos differ in length, and a long one moves it too.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._videos = self._clips = self._failed = self._bytes = 0
        self._begun = self._said = time.monotonic()

    def __call__(self, plan: Plan, progress: Progress) -> None:
        """Take note of progress; an observer of `vmae_embed.extractor.run`."""
        self._videos += progress.videos
        self._clips += progress.embedded
        self._bytes += progress.bytes
        self._failed += len(progress.failures)
        if self._quiet:
            return
        if sys.stderr.isatty():
            self._draw(plan)
        elif time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{self._figures(plan)}, {self._left(plan)} left")

    def _figures(self, plan: Plan) -> str:
        rate = self._clips / max(time.monotonic() - self._begun, 1e-9)
        failed = f", {self._failed:,} failed" if self._failed else ""
        return f"{self._videos:,} of {plan.videos:,} videos, {self._clips:,} clips, {rate:.1f} clips/s{failed}"

    def _left(self, plan: Plan) -> str:
        if not self._bytes or not self._clips:
            return "?"
        seconds = (time.monotonic() - self._begun) / self._bytes * (plan.bytes - self._bytes)
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02}:{int(seconds % 60):02}"

    def _draw(self, plan: Plan) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                BarColumn(),
                TextColumn("{task.description} ·"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=plan.bytes)
        self._bar.update(self._task, completed=self._bytes, description=self._figures(plan))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class StageProgress:
    """Stages of a long job on stderr: what is done, how much of it, and the time that is left of it."""

    def __init__(self, *, every_s: float = _LINE_EVERY_S) -> None:
        self._every_s = 1.0 if sys.stderr.isatty() else every_s
        self._stage = ""
        self._begun = self._said = time.monotonic()
        self._drawn = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note of progress; an `Observer` of `vmae_embed.index`."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun = stage, now
        if now - self._said < self._every_s:
            return
        self._said = now
        left = ""
        if done:
            seconds = int((now - self._begun) / done * (total - done))
            left = f": {done:,} of {total:,}, {seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02} left"
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{stage}{left}", err=True, nl=False)
            self._drawn = True
        else:
            say(f"{stage}{left}")

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            click.echo("\r\x1b[K", err=True, nl=False)
