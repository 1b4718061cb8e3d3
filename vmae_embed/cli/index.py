"""``vmae-embed index``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from vmae_embed.cli.options import library_argument
from vmae_embed.cli.output import StageProgress, count_of, say

if TYPE_CHECKING:
    from vmae_embed.index import Index, Made
    from vmae_embed.library import Library

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


ANY = "any"


class NumberOrAny(click.ParamType[float | str]):
    """A number, or ``any`` to ask for nothing."""

    def __init__(self, kind: type[int] | type[float], name: str) -> None:
        self._kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, or ``any``."""
        if value == ANY or isinstance(value, int | float):
            return value  # type: ignore[no-any-return]
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f"{value!r}: give a number, or any", param, ctx)


class Bytes(click.ParamType[int | str]):
    """A size such as ``800M`` or ``1.5G``, in bytes, or ``any``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the bytes, or ``any``."""
        if value == ANY or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r}: give bytes, a size such as 800M or 1.5G, or any", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


class Part(click.ParamType[tuple[int, int]]):
    """One of several parts, ``2/8``."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return which of how many."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if match is None:
            self.fail(f"{value!r}: give which of how many, such as 2/8", param, ctx)
        return int(match[1]), int(match[2])


@click.command()
@library_argument
@click.option(
    "--factory",
    metavar="NAME",
    help="auto: exact while that is fast, IVF-PQ with 4-bit codes beyond, another where it falls short; exact; ivfpq; "
    "or FAISS's own description of an IVF index (IVF4096,PQ192x4fsr). [default: as before; else auto]",
)
@click.option(
    "--target-recall", type=float, metavar="SHARE", help="Of the true nearest, to find. [default: as before; else 0.95]"
)
@click.option("--at", type=int, metavar="K", help="Of how many nearest. [default: as before; else 10]")
@click.option("--memory", type=Bytes(), help="To take while searching: 800M, 1.5G. [default: as before; else any]")
@click.option(
    "--latency-ms",
    type=NumberOrAny(float, "MS"),
    metavar="MS",
    help="Of a search, in the median. [default: as before; else any]",
)
@click.option(
    "--metric", type=click.Choice(("cosine", "ip", "l2")), help="What nearest means. [default: as before; else cosine]"
)
@click.option(
    "--nlist",
    type=NumberOrAny(int, "N"),
    metavar="N",
    help="Cells of an IVF index. [default: as before; else chosen by size]",
)
@click.option(
    "--train-size",
    type=NumberOrAny(int, "N"),
    metavar="N",
    help="Clips to train on. [default: as before; else 64 a cell]",
)
@click.option("--seed", type=int, metavar="N", help="Of sampling and clustering. [default: as before; else 0]")
@click.option("--gpu", is_flag=True, help="Cluster on a GPU, where FAISS has one.")
@click.option(
    "--part",
    type=Part(),
    metavar="I/N",
    help="Build one of N parts, each on a machine; the last to finish merges them.",
)
@click.option("--rebuild", is_flag=True, help="Build it anew though it could follow.")
def index(
    library: str,
    gpu: bool,
    part: tuple[int, int] | None,
    rebuild: bool,
    **asked: Any,
) -> None:
    """Build a library's search index, or make it follow the library.

    It is tuned by measurement: clips of the library are left out and searched for, and the index looks at
    no more than reaches the target. Run it again after the library has changed: what is new is added and
    what is gone removed; it trains anew when recall has fallen short or the library has outgrown it, and says why.

    Searching does this by itself when it must; do it here to choose the index, or to wait now.
    """
    from vmae_embed.index import Index, IndexSpec
    from vmae_embed.index.backend import why_no_gpu
    from vmae_embed.library import Library

    opened = Library.open(library)
    given = {name: value for name, value in asked.items() if value is not None}
    wanted = {name: None if value == ANY else value for name, value in given.items()}
    before = Index.last_spec(opened).to_dict()
    # Another factory has cells of its own.
    if "factory" in given and "nlist" not in given:
        before["nlist"] = None
    spec = IndexSpec.from_dict({**before, **wanted})
    if gpu and (reason := why_no_gpu()):
        say(f"--gpu: {reason}; going on without one")
        gpu = False
    with StageProgress() as progress:
        if part is not None:
            merged = Index.build_part(opened, *part, spec if given else None, gpu=gpu, observe=progress)
            if merged is None:
                say(f"{library}: part {part[0]} of {part[1]} is there; the last to finish merges them")
                return
            made = merged
        else:
            made = Index.update(opened, spec if given else None, rebuild=rebuild, gpu=gpu, observe=progress)
    built = Index(opened, opened.index_path)
    say(f"{library}: {describe_made(made)}{describe(built)}")
    if shortfall := describe_shortfall(built):
        say(f"warning: {shortfall}")


def open_index(library: Library) -> Index:
    """Open a library's index, telling on stderr what that takes."""
    from vmae_embed.index import Index

    if not Index.is_current(library):
        is_there = Index.exists(library)
        say(f"{library.path}: {'bringing its index up to date' if is_there else 'building its index'}")
    with StageProgress() as progress:
        opened = Index.open(library, observe=progress)
    if not Index.is_current(library):
        what = "is as it was" if Index.exists(library) else "is for now only"
        say(f"{library.path}: another process is writing, or nothing can be written: this index {what}")
    return opened


def describe_made(made: Made) -> str:
    """Say in a few words what bringing an index up to date did."""
    if made.how == "unchanged":
        return "up to date: "
    why = f" ({made.why})" if made.why else ""
    if made.how == "updated":
        why = f" ({count_of(made.added, 'clip')} added, {made.removed:,} removed)"
    return f"{made.how} in {made.seconds:.1f} s{why}: "


def describe(index: Index) -> str:
    """Say in a line what an index is and what was measured of it."""
    about = index.about
    latency = f"a search takes {about['latency_ms']['p50']:.1f} ms (99th percentile {about['latency_ms']['p99']:.1f})"
    what = f"{count_of(len(index), 'clip')}, {index.metric}"
    trained = about["trained"]
    if index.effort is None:
        return f"exact index of {what}: every search compares all of them; {latency}"
    recall = about["recall"]
    return (
        f"{about['factory']} index of {what}, nprobe {index.effort.nprobe}, "
        f"{index.effort.candidates} candidates a hit compared in full; "
        f"recall@{recall['at']} {recall['measured']:.3f} ± {2 * recall['error']:.3f}, measured on "
        f"{recall['queries']:,} clips of videos left out; {latency}; "
        f"{about['bytes_per_vector']:,.0f} bytes a clip in memory; built in {trained['seconds']:.0f} s "
        f"of {trained['clips']:,} clips"
    )


def describe_shortfall(index: Index) -> str:
    """Say by how much an index misses what was asked for; nothing if it does not."""
    about, spec = index.about, index.spec
    missed = []
    recall = about["recall"]
    if recall["measured"] < spec.target_recall:
        short = spec.target_recall - recall["measured"]
        missed.append(f"recall@{spec.at} is {recall['measured']:.3f}, {short:.3f} short of {spec.target_recall:g}")
    if spec.latency_ms is not None and about["latency_ms"]["p50"] > spec.latency_ms:
        missed.append(f"a search takes {about['latency_ms']['p50']:.2f} ms, asked for were {spec.latency_ms:g}")
    if not missed:
        return ""
    ways = "--factory auto" if spec.factory != "auto" else "more --memory or --latency-ms, or --factory exact"
    return f"{' and '.join(missed)}: {ways} may give it"
