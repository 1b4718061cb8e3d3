"""The command line. Only here are arguments parsed, lines printed, and exit codes chosen."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
import traceback
import warnings
from typing import Any

import click

from vmae_embed import __version__
from vmae_embed.errors import UsageError, VmaeEmbedError, one_line

# Each verb's module, imported when the verb is used: --help and a search by clip id load no torch.
_VERBS = {
    "extract": "extract",
    "index": "index",
    "search": "search",
    "classify": "classify",
    "duplicates": "duplicates",
    "evaluate": "evaluate",
    "probe": "probe",
    "predict": "predict",
    "reconstruct": "reconstruct",
    "info": "inspect",
    "verify": "inspect",
    "failures": "inspect",
    "import": "transfer",
    "export": "transfer",
    "demo": "demo",
}
_SHORT_HELP = {
    "extract": "Embed the clips of videos into a library; run it again to resume or to add.",
    "index": "Build a library's search index, or bring it up to date.",
    "search": "Find the clips that look most like a query.",
    "classify": "Name what videos show, by the labels of a fine-tuned checkpoint.",
    "duplicates": "Find videos that repeat each other or themselves, and where.",
    "evaluate": "Measure a library's index against exact search, and its neighbours against labels.",
    "probe": "Judge a library's embeddings by labels: frozen features, small probes.",
    "predict": "Name clips by a probe that was kept.",
    "reconstruct": "Hide most of a clip and see how well a pre-trained model fills it in.",
    "info": "Say what is in a library and how it was made.",
    "verify": "Check that a library is whole.",
    "failures": "List the videos that gave no clips, and why.",
    "import": "Take vectors made elsewhere as a library.",
    "export": "Write a library's embeddings for other tools.",
    "demo": "Show all of it offline, on videos made by code.",
}

EXIT_FAILED, EXIT_MISUSED, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(importlib.import_module(f"vmae_embed.cli.{_VERBS[cmd_name]}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SHORT_HELP.items()))


@click.group(
    cls=_Verbs,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "auto_envvar_prefix": "VMAE_EMBED",
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="vmae-embed")
def cli() -> None:
    """Point it at videos, and it finds the moments that look alike.

    Two commands: `vmae-embed extract VIDEOS -o LIB`, then `vmae-embed search LIB QUERY`.

    Exit codes: 0 done, 1 failed, 2 misused, 3 finished but some videos failed, 130 interrupted.
    Every option can be set by an environment variable: VMAE_EMBED_<VERB>_<OPTION>.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.showwarning = _show_warning
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="vmae-embed", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_MISUSED
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "vmae-embed"
        message = " ".join(error.format_message().split())  # click lists choices in lines of their own
        _complain(f"{message} (see `{command} --help`)")
        return EXIT_MISUSED
    except click.ClickException as error:
        _complain(error.format_message())
        return EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except UsageError as error:
        _complain(str(error))
        return EXIT_MISUSED
    except VmaeEmbedError as error:
        _complain(str(error))
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing more can reach it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("VMAE_EMBED_DEBUG"):
            traceback.print_exc()
        _complain(
            f"this is a fault of vmae-embed ({one_line(error)}); VMAE_EMBED_DEBUG=1 shows where. Please report it"
        )
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    click.echo(f"error: {message}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"warning: {message}", err=True)
