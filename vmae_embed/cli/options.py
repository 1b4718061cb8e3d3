"""Options that several verbs share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.sampling import Sampling

Command = TypeVar("Command", bound=Callable[..., Any])

# Those of `vmae_embed.presets`, which imports NumPy.
PRESET_NAMES = ("k400", "ssv2", "ucf101")

FORMATS = ("table", "json", "jsonl", "csv")

library_argument = click.argument("library", metavar="LIB")
views_argument = click.argument("library", metavar="LIB|VIEWS")

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


def is_library(source: str) -> bool:
    """Whether a source is no video, but a library, or a directory of a preset's views."""
    return any(os.path.exists(os.path.join(source, name)) for name in ("library.json", "preset.json"))


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


def sampling_options(default_rate: str) -> Callable[[Command], Command]:
    """Options that `read_sampling` takes; ``default_rate`` is what the help says that is taken without any."""
    return combine(
        click.option(
            "--fps", type=float, metavar="RATE", help=f"Sample by time, so many frames a second. {default_rate}"
        ),
        click.option(
            "--stride",
            type=int,
            metavar="N",
            help="Sample every N-th frame instead (Kinetics: 4, SSv2 pre-training: 2).",
        ),
        click.option(
            "--hop",
            type=float,
            metavar="SECONDS",
            help="From the start of a clip to the next. [default: clips touch]",
        ),
        click.option("--clips-per-video", type=int, metavar="N", help="So many clips, evenly spread, instead of all."),
        click.option("--uniform", is_flag=True, help="One clip spread over the whole video (SSv2 fine-tuning)."),
    )


def read_sampling(
    fps: float | None, stride: int | None, hop: float | None, clips_per_video: int | None, uniform: bool
) -> Sampling | None:
    """Make a policy of `sampling_options`; None where none was given.

    Raises:
        UsageError: a value is out of range, or two of them contradict each other.
    """
    if fps is not None and (stride is not None or uniform):
        raise UsageError(f"--fps and --{'uniform' if uniform else 'stride'} contradict each other: give one of them")
    if all(value is None for value in (fps, stride, hop, clips_per_video)) and not uniform:
        return None
    from vmae_embed.sampling import Sampling

    return Sampling(
        fps=7.5 if fps is None else fps, stride=stride, hop_s=hop, clips_per_video=clips_per_video, uniform=uniform
    )
