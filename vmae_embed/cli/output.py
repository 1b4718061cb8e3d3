"""Rows to stdout, as people or programs want them; progress to stderr."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from vmae_embed.pipeline import Progress
from vmae_embed.plan import Plan
from vmae_embed.records import Failure

_LINE_EVERY_S = 10.0


def write_rows(rows: Sequence[Mapping[str, Any]], output_format: str, columns: Sequence[str]) -> None:
    """Write rows to stdout.

    Args:
        rows: to write.
        output_format: one of `vmae_embed.cli.options.FORMATS`.
        columns: of a table, in order; the other formats write all.
    """
    writer = RowWriter(output_format, columns)
    writer.write(rows)
    writer.close()


class RowWriter:
    """Writes rows to stdout as they come, in one of `vmae_embed.cli.options.FORMATS`.

    Args:
        output_format: the format.
        columns: of a table, in order; the other formats write all. A table's first rows set its widths.
    """

    def __init__(self, output_format: str, columns: Sequence[str]) -> None:
        self._format = output_format
        self._columns = list(columns)
        self._begun = False
        self._widths: list[int] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write some more rows; all have the same keys."""
        if rows:
            lines = getattr(self, f"_{self._format}")(rows)
            click.echo("\n".join(lines), nl=self._format != "json")
            self._begun = True

    def close(self) -> None:
        """Write what ends the output, and what begins it where there were no rows."""
        if self._format == "json":
            click.echo("\n]" if self._begun else "[]")
        elif self._format != "jsonl" and not self._begun:
            click.echo("\n".join(getattr(self, f"_{self._format}")([])))

    def _json(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        shown = (json.dumps(row, indent=2, ensure_ascii=False, default=str) for row in rows)
        return [(",\n" if self._begun else "[\n") + ",\n".join(textwrap.indent(text, "  ") for text in shown)]

    def _jsonl(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [json.dumps(row, ensure_ascii=False, default=str) for row in rows]

    def _csv(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else self._columns, lineterminator="\n")
        if not self._begun:
            writer.writeheader()
        writer.writerows(rows)
        return [text.getvalue().removesuffix("\n")]

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        cells = [[_text(row.get(name)) for name in self._columns] for row in rows]
        if not self._begun:
            cells.insert(0, self._columns)
            self._widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)).rstrip()
            for line in cells
        ]


def _text(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def say(message: str) -> None:
    """Write a line to stderr."""
    click.echo(message, err=True)


def tell_unmatched(names: Sequence[object], what: str) -> None:
    """Say on stderr how many there are of what found no partner, and the first three."""
    if names:
        more = ", ..." if len(names) > 3 else ""
        say(f"{len(names):,} {what}: {', '.join(str(name) for name in names[:3])}{more}")


def tell_failures(failures: Sequence[Failure]) -> None:
    """Name the videos that failed, and why."""
    for failure in failures:
        say(f"failed: {failure.video_id} ({failure.stage}): {failure.reason}")


def count_of(count: int, noun: str, plural: str = "s") -> str:
    """Say how many: ``1 video``, ``2,000 videos``."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"


class ProgressBar:
    """Videos done, clips a second and time left, on stderr; a line every ten seconds where it is no terminal.

    The bar and the time left go by the bytes of the files: videos differ in length, and a long one moves it too.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._plan: Plan | None = None
        self._begin(None)

    def _begin(self, plan: Plan | None) -> None:
        self._plan = plan
        self._bar: Any = None
        self._task: Any = None
        self._videos = self._clips = self._failed = self._bytes = 0
        self._begun = self._said = time.monotonic()

    def __call__(self, plan: Plan, progress: Progress) -> None:
        """Take note of progress; an observer of `vmae_embed.extractor.run`, or of one after the other."""
        if plan is not self._plan and self._plan is not None:
            self.close()
            self._begin(plan)
        self._plan = plan
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
