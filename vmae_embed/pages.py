"""Self-contained HTML pages: one frame for all of them, and writing one without replacing another."""

from __future__ import annotations

import html
import string
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from vmae_embed.errors import UsageError


def render_page(template: str, *, title: str, about: str, notes: Sequence[str] = (), **parts: str) -> str:
    """Fill a template of ``templates/`` and put the frame around it.

    Args:
        template: name without ``.html``; its style is the file of that name that ends in ``.css``.
        title: of the page, as text.
        about: a line below it, as text.
        notes: what the reader must be warned of, as text.
        parts: of the template, as HTML.
    """
    return string.Template(_read("page.html")).substitute(
        title=html.escape(title),
        style=_read("page.css") + _read(f"{template}.css"),
        about=html.escape(about),
        notes="\n".join(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        body=string.Template(_read(f"{template}.html")).substitute(parts).rstrip(),
    )


def render_table(head: str, rows: str) -> str:
    """Put the frame of a table, which scrolls where it is too wide, around its cells and its rows, as HTML."""
    return string.Template(_read("table.html")).substitute(head=head, rows=rows).rstrip()


def check_page(path: str | Path, *, overwrite: bool) -> Path:
    """Say what is wrong with a page's name, before anything takes its time.

    Raises:
        UsageError: the file exists, or its directory does not.
    """
    page = Path(path)
    if not page.absolute().parent.is_dir():
        raise UsageError(f"{page}: cannot be written (its folder does not exist)")
    if page.exists() and not overwrite:
        raise UsageError(f"{page}: exists; give another name, or --overwrite")
    return page


def write_page(page: Path, text: str) -> Path:
    """Write a page.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        page.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{page}: cannot be written ({error.strerror})") from error
    return page


def _read(name: str) -> str:
    return resources.files("vmae_embed").joinpath("templates", name).read_text("utf-8")
