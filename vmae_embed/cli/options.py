"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "csv")

library_argument = click.argument("library", metavar="LIB")

format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    help="How rows are written to stdout.",
)

device_option = click.option(
    "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]"
)


def dtype_option(default: str) -> Callable[[Command], Command]:
    """Option ``--dtype``; ``default`` is what the help says that is taken without it."""
    return click.option(
        "--dtype",
        type=click.Choice(("float32", "bfloat16", "float16")),
        help=f"Precision of the encoder's forward pass. {default}",
    )


decoder_option = click.option(
    "--decoder",
    type=click.Choice(("auto", "pyav", "nvdec", "decord")),
    default="auto",
    help="Decoding backend; auto is pyav, which refuses least. nvdec is pyav on the GPU's decoder.",
)


class NumberOrAuto(click.ParamType[int | str]):
    """A whole number from 1 on, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or ``auto``."""
        if value == "auto" or (isinstance(value, int) and value >= 1):
            return value  # type: ignore[no-any-return]
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r}: give a whole number from 1 on, or auto", param, ctx)
        return number


def combine(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several, in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
