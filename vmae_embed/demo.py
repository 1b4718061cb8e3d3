"""The whole of it, offline: render videos, extract, index, search, write the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmae_embed.checkpoint import DEMO_MODEL
from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.extractor import Observer, run
from vmae_embed.index import Index
from vmae_embed.library import Library
from vmae_embed.query import Hits, search
from vmae_embed.report import write_report
from vmae_embed.synthetic import write_demo_videos

SMALL_MODEL = (
    "This demo's encoder is the small VideoMAE of this package (--model demo), trained on generated videos alone. "
    "It tells looks and motions of simple scenes apart; for real videos use a published checkpoint."
)
_MOTION, _LOOK = "circle", "striped-crate"  # of the query
_SEED = 0


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        library: of its videos.
        query: id of the video that was searched for.
        hits: the videos most like it.
        page: that shows them.
        other_looks: the videos most like it of things that look otherwise, so alike in motion.
        other_looks_page: that shows them.
    """

    library: Library
    query: str
    hits: Hits
    page: Path
    other_looks: Hits
    other_looks_page: Path


def run_demo(folder: Path, *, say: Callable[[str], None], observe: Observer | None = None) -> Demo:
    """Make a demo in a directory, or finish one that was interrupted.

    Args:
        folder: new, empty, or an earlier demo's.
        say: called with a line before each step.
        observe: of the extraction.

    Raises:
        UsageError: there is something else in the directory.
    """
    marker = folder / "demo.json"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not marker.exists())):
        raise UsageError(f"{folder}: not empty, and no demo; give another directory")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"made_by": "vmae-embed demo", "seed": _SEED}) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); give another directory") from error

    videos, library = folder / "videos", folder / "library"
    if not (videos / "labels.csv").exists():
        say("rendering and encoding videos")
        write_demo_videos(videos, seed=_SEED)
    say(f"vmae-embed extract {videos / 'labels.csv'} -o {library} --model {DEMO_MODEL}")
    summary = run([videos / "labels.csv"], library, encoder=Encoder.from_pretrained(DEMO_MODEL), observe=observe)
    say(f"vmae-embed index {library}")
    index = Index.open(summary.library)
    query = f"{_MOTION}_{_LOOK}_1.mp4"

    def look_up(page: Path, title: str, where: str | None) -> Hits:
        condition = f' --where "{where}"' if where else ""
        say(f"vmae-embed search {library} '{query}' -k 8 --group-by video{condition} --html {page} --overwrite")
        hits = search(index, query, k=8, group_by="video", where=where)
        write_report(page, hits, title=title, notes=[SMALL_MODEL], overwrite=True)
        return hits

    page, other_looks_page = folder / "hits.html", folder / "other-looks.html"
    hits = look_up(page, f"What is like {query}", None)
    other_looks = look_up(other_looks_page, f"What moves like {query}, other looks only", f"look <> '{_LOOK}'")
    return Demo(summary.library, query, hits, page, other_looks, other_looks_page)
