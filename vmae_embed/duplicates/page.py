"""One self-contained HTML page of duplicates: what repeats what, side by side and in time."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from vmae_embed import pages
from vmae_embed.duplicates.clusters import Member
from vmae_embed.duplicates.results import Duplicates, VideoPair
from vmae_embed.errors import DecodeError
from vmae_embed.index import Index
from vmae_embed.pages import check_page, render_page
from vmae_embed.previews import FRAMES, player, sprite_of

# Two strips take about 100 kB.
MOST_SHOWN = 60
_MOST_MEMBERS = 20

_KINDS = {
    "copy": "copies of each other",
    "a in b": "the first is in the second",
    "b in a": "the second is in the first",
    "part": "share a part",
    "repeat": "repeats itself",
}


@dataclass(frozen=True)
class _File:
    """Where a video lies, what was embedded of it, and when its last clip ends."""

    path: str
    fingerprint: str
    end_s: float


def write_page(
    path: str | Path,
    index: Index,
    found: Duplicates,
    *,
    title: str,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a page of duplicates.

    Videos are linked where they are; strips are part of the page. Of a cluster, what its kept videos
    share with others is shown, of all `MOST_SHOWN` stretches at most.

    Args:
        path: of the page.
        index: that they were found in.
        found: in it.
        title: of the page.
        notes: what the reader must be warned of.
        overwrite: replace a file of that name.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    page = check_page(path, overwrite=overwrite)
    kept = {member.video_id for member in found.members if member.copy_of is None}
    telling = [pair for pair in found.pairs if pair.cluster is None or {pair.video_a, pair.video_b} & kept]
    shown = telling[:MOST_SHOWN]
    files = _files(index, {video for pair in shown for video in (pair.video_a, pair.video_b)})
    folder = page.parent.resolve()
    sections = []
    for heading, pairs in groupby(shown, key=_heading):
        cluster = [member for member in found.members if heading == f"Cluster {member.cluster}"]
        sections.append(f"<h2>{heading}</h2>{_members(cluster)}")
        sections += [_pair(pair, files, folder) for pair in pairs]
    about = (
        f"{len(found.pairs):,} stretches of {found.videos:,} videos occur twice; {len(found.extras):,} videos are held "
        "by others. Strips show the same moments one above the other, bars where they lie in each video."
    )
    if len(found.pairs) > len(shown):
        about += f" Shown are {len(shown):,}: what is kept beside its copies, the largest clusters first."
    nothing = "<p class='gone'>nothing occurs twice</p>"
    text = render_page("duplicates", title=title, about=about, notes=notes, sections="\n".join(sections) or nothing)
    return pages.write_page(page, text)


def _heading(pair: VideoPair) -> str:
    if pair.cluster is not None:
        return f"Cluster {pair.cluster}"
    return "Within one video" if pair.kind == "repeat" else "Parts in common"


def _files(index: Index, video_ids: set[str]) -> dict[str, _File]:
    table = index.clips.select(["video_id", "path", "fingerprint", "end_s"]).take(pa.array(index.live))
    table = table.filter(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))
    grouped = table.group_by(["video_id", "path", "fingerprint"]).aggregate([("end_s", "max")]).to_pylist()
    return {
        row["video_id"]: _File(row["path"] or "", row["fingerprint"] or "", row["end_s_max"] or 0.0) for row in grouped
    }


def _members(members: list[Member]) -> str:
    lines = []
    for member in members[:_MOST_MEMBERS]:
        facts = f"{member.duration_s:.1f} s, {member.width} x {member.height}" if member.width else "size not known"
        if member.copy_of is not None:
            facts += f"; {member.cover:.0%} of it is in {member.copy_of}"
        label = "<span class='extra'>extra</span>" if member.copy_of else "<span class='keep'>keep</span>"
        lines.append(f"<li>{label} <code>{html.escape(member.video_id)}</code> ({html.escape(facts)})</li>")
    if len(members) > len(lines):
        lines.append(f"<li class='gone'>and {len(members) - len(lines):,} more videos</li>")
    return f"<ul class='members'>{''.join(lines)}</ul>" if lines else ""


def _pair(pair: VideoPair, files: dict[str, _File], folder: Path) -> str:
    a, b = files[pair.video_a], files[pair.video_b]
    longest_s = max(a.end_s, b.end_s)
    # The moments that both show: where a's are, those of b are an offset later.
    start_s = max(pair.start_a_s, pair.start_b_s - pair.offset_s)
    end_s = min(pair.end_a_s, pair.end_b_s - pair.offset_s)
    if pair.kind == "repeat":
        shares = f"{pair.cover_a:.0%} of it occurs twice"
    else:
        shares = f"{pair.cover_a:.0%} of the first, {pair.cover_b:.0%} of the second"
    facts = [
        f"<b>{_KINDS[pair.kind]}</b>",
        f"offset {pair.offset_s:+.3f} s",
        f"{pair.clips:,} clip{'' if pair.clips == 1 else 's'} agree{'s' if pair.clips == 1 else ''}",
        shares,
        f"score {pair.mean:.4f}, at best {pair.best:.4f}",
    ]
    return (
        f"<div class='pair'><div class='what'>{''.join(f'<span>{fact}</span>' for fact in facts)}</div>"
        f"{_side(pair.video_a, a, start_s, end_s, longest_s, folder)}"
        f"{_side(pair.video_b, b, start_s + pair.offset_s, end_s + pair.offset_s, longest_s, folder)}</div>"
    )


def _side(video_id: str, file: _File, start_s: float, end_s: float, longest_s: float, folder: Path) -> str:
    track = ""
    if longest_s > 0:
        left, width = (100 * seconds / file.end_s for seconds in (start_s, end_s - start_s))
        track = (
            f"<div class='track' style='width:{100 * file.end_s / longest_s:.1f}%'>"
            f"<i style='margin-left:{left:.1f}%;width:{width:.1f}%'></i></div>"
            f"<p>{start_s:.1f} to {end_s:.1f} s of {file.end_s:.1f}</p>"
        )
    return (
        f"<div class='side'><div><code>{html.escape(video_id)}</code>{track}</div>"
        f"<div>{_strip(video_id, file, start_s, end_s, folder)}</div></div>"
    )


def _strip(video_id: str, file: _File, start_s: float, end_s: float, folder: Path) -> str:
    if not file.path or end_s <= start_s:
        return "<span class='gone'>no file, or no times: nothing to show</span>"
    try:
        sprite = sprite_of(file.path, start_s, end_s, file.fingerprint)
    except DecodeError as error:
        return f"<span class='gone'>{html.escape(str(error))}</span>"
    style = f"--sprite:url({sprite.uri});--frames:{FRAMES};--shape:{sprite.width}/{sprite.height}"
    name = html.escape(f"frames of {video_id}", quote=True)
    return (
        f"<div class='strip' style='{style}' role='img' aria-label='{name}'></div>"
        f"{player(file.path, start_s, end_s, folder)}"
    )
