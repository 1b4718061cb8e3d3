"""One self-contained HTML page of hits: moving previews, frame strips, scores, playable fragments."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmae_embed.errors import DecodeError
from vmae_embed.pages import check_page, render_page, write_page
from vmae_embed.previews import FRAMES, player, sprite_of
from vmae_embed.records import Hit, QueryClip

_MOST_QUERIES_SHOWN = 3

# What scores are, by the metric of their index.
_SCORES = {
    "cosine": "cosine similarities, 1 at most",
    "ip": "inner products",
    "l2": "distances with a minus, 0 at most",
}


def write_report(
    path: str | Path,
    hits: Sequence[Hit],
    queries: Sequence[QueryClip] | None = None,
    *,
    title: str = "The moments that look alike",
    about: str = "",
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a page of hits.

    Videos are linked where they are; previews are part of the page.

    Args:
        path: of the page.
        hits: of one search.
        queries: what was searched for; None takes them from the hits of `vmae_embed.search`.
        title: of the page.
        about: a line below it.
        notes: what the reader must be warned of.
        overwrite: replace a file of that name.

    Raises:
        UsageError: the file exists, or its directory does not.
    """
    page = check_page(path, overwrite=overwrite)
    return write_page(page, render_report(hits, queries, title=title, about=about, notes=notes, beside=page))


@dataclass(frozen=True)
class Page:
    """A page of hits that notebooks show; see `show`."""

    text: str

    def _repr_html_(self) -> str:
        # A frame of its own keeps the page's style from the notebook's, and the other way round.
        source = html.escape(self.text, quote=True)
        return f'<iframe srcdoc="{source}" style="width:100%;height:640px;border:0"></iframe>'


def show(hits: Sequence[Hit], *, title: str = "The moments that look alike", notes: Sequence[str] = ()) -> Page:
    """Show hits in a notebook, as `write_report` shows them in a browser.

    Args:
        hits: of one search.
        title: of the page.
        notes: what the reader must be warned of.
    """
    return Page(render_report(hits, title=title, notes=notes))


def render_report(
    hits: Sequence[Hit],
    queries: Sequence[QueryClip] | None = None,
    *,
    title: str = "The moments that look alike",
    about: str = "",
    notes: Sequence[str] = (),
    beside: Path | None = None,
) -> str:
    """Return the page as text; ``beside`` is where it will lie, to link videos relative to it."""
    asked = list(getattr(hits, "queries", []) if queries is None else queries)
    folder = (beside.parent if beside else Path()).resolve()
    shown = [_clip(clip, clip.name, folder, "") for clip in asked[:_MOST_QUERIES_SHOWN]]
    if len(asked) > len(shown):
        shown.append(f"<p class='about'>and {len(asked) - len(shown)} more clips of it</p>")
    metric = getattr(hits, "metric", "cosine")
    found = [_clip(hit, hit.clip_id, folder, _score(hit, with_bar=metric == "cosine")) for hit in hits]
    return render_page(
        "hits",
        title=title,
        about=about or f"{len(hits)} hits; scores are {_SCORES[metric]}.",
        notes=notes,
        queries="\n".join(shown),
        hits="\n".join(found) or "<p class='gone'>nothing</p>",
    )


def _score(hit: Hit, *, with_bar: bool) -> str:
    width = max(0.0, min(hit.score, 1.0)) * 100
    bar = f"<span class='bar'><i style='width:{width:.1f}%'></i></span>" if with_bar else ""
    merged = [f"{hit.clips} clips"] if hit.clips > 1 else []
    tags = [*merged, *(f"{name}: {value}" for name, value in hit.columns.items() if value is not None)]
    return (
        f"<span class='rank'>{hit.rank}</span>{bar}"
        f"<span class='score'>{hit.score:.4f}</span><span class='tags'>{html.escape(' · '.join(tags))}</span>"
    )


def _clip(clip: Hit | QueryClip, name: str, folder: Path, score: str) -> str:
    head = f"<div class='what'>{score}<code>{html.escape(name)}</code></div>"
    path, start_s, end_s = clip.path, clip.start_s, clip.end_s
    if not path:  # imported clips may have none
        return f"<div class='clip'><div class='gone'>a vector</div><div>{head}</div></div>"
    try:
        sprite = sprite_of(path, start_s, end_s, clip.fingerprint)
    except DecodeError as error:
        reason = f"<p class='gone'>{html.escape(str(error))}</p>"
        return f"<div class='clip'><div class='gone'>no preview</div><div>{head}{reason}</div></div>"
    seconds = max(end_s - start_s, 0.2)
    shape = f"{sprite.width}/{sprite.height}"
    style = f"--sprite:url({sprite.uri});--frames:{FRAMES};--shape:{shape};--seconds:{seconds:.2f}s"
    return (
        f"<div class='clip' style='{style}'><div class='film'></div>"
        f"<div>{head}<div class='strip' role='img' aria-label='frames of {html.escape(name, quote=True)}'></div>"
        f"{player(path, start_s, end_s, folder)}</div></div>"
    )
