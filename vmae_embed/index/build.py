"""Building a library's index, and making it follow: what changed is added and removed, and measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vmae_embed.errors import LibraryError, SearchIndexError, UsageError
from vmae_embed.index.ann import Effort, remove
from vmae_embed.index.backend import import_faiss
from vmae_embed.index.choose import Chosen, Rows, add_rows, choose, tune
from vmae_embed.index.generation import (
    CLIPS,
    FAISS,
    UNITS,
    UNITS_SCHEMA,
    Draft,
    commit,
    next_folder,
    read_about,
    read_arrow,
)
from vmae_embed.index.rows import (
    Observer,
    Signatures,
    UnitRows,
    append_units,
    clips_schema,
    rows_of,
    units_of,
    units_table,
)
from vmae_embed.index.spec import IndexSpec, plan_layouts
from vmae_embed.index.tune import Measured
from vmae_embed.library import Library

# Of the clips, that may change before recall is measured again: it cannot have lost much more than that share.
_UNMEASURED = 0.01
# In index.json, what was measured is told from what is aimed at.
_MEASURED = {"recall": "measured", "error": "error", "queries": "queries"}
# Growth after which the cells are too few.
_GROWTH = 4
# Rows of removed clips, for each that is live, after which the files are written anew.
_HOLES = 0.5


@dataclass(frozen=True)
class Made:
    """What bringing an index up to date did.

    Attributes:
        how: ``built``, ``retrained``, ``updated``, ``tuned`` or ``unchanged``.
        why: a retraining was needed; else empty.
        added: clips.
        removed: clips.
        seconds: that it took.
    """

    how: str
    why: str = ""
    added: int = 0
    removed: int = 0
    seconds: float = 0.0


def build(
    library: Library,
    folder: Path,
    spec: IndexSpec,
    *,
    why: str = "",
    gpu: bool = False,
    observe: Observer | None = None,
) -> Made:
    """Build an index anew in a folder, under `vmae_embed.index.generation.writing`.

    Raises:
        SearchIndexError: the library holds no clips, or FAISS is not installed.
        UsageError: what is asked for cannot be had with these clips.
        LibraryError: a shard cannot be read, or the folder cannot be written to.
    """
    begun = time.monotonic()
    signatures = library.signatures()  # of now, whatever an extraction adds meanwhile
    count = library.count(signatures)
    if not count:
        raise SearchIndexError(
            f"{library.path}: holds no clips to index; `vmae-embed failures {library.path}` says why"
        )
    plan_layouts(spec, count, library.width)  # what cannot be had is told before anything is written
    with drafting(library, next_folder(folder)) as draft:
        units: list[UnitRows] = []
        clips = append_units(draft, library, signatures, spec.metric, units, observe)
        rows = write_rows(draft, library, [], units, clips)
        if not len(rows.live):
            raise SearchIndexError(f"{library.path}: its shards changed while they were read; run it again")
        chosen = choose(rows, spec, gpu=gpu, observe=observe)
        made = Made("retrained" if why else "built", why, len(rows.live), 0, time.monotonic() - begun)
        commit_chosen(folder, draft, library, spec, chosen, units, made)
    return made


def bring_up_to_date(
    library: Library, folder: Path, spec: IndexSpec, *, gpu: bool = False, observe: Observer | None = None
) -> Made:
    """Add what is new to an index and remove what is gone; build it where there is none, or it no longer serves.

    Raises:
        SearchIndexError, UsageError, LibraryError: as `build` does.
    """
    try:
        about = read_about(folder)
        current = folder / str(about["folder"])
        before, held = IndexSpec.from_dict(about["spec"]), units_of(read_arrow(current / UNITS))
    except (OSError, ValueError, KeyError, TypeError, UsageError, pa.ArrowException):
        return build(library, folder, spec, gpu=gpu, observe=observe)
    if not before.builds_as(spec):
        return build(library, folder, spec, why="another index was asked for", gpu=gpu, observe=observe)
    signatures = library.signatures()
    kept = [unit for unit in held if signatures.get(unit.unit) == unit.signature]
    new = {unit: signature for unit, signature in signatures.items() if unit not in {k.unit for k in kept}}
    if before == spec and not new and len(kept) == len(held):
        return Made("unchanged")
    if why := _outgrown(about, spec, library, kept, new):
        return build(library, folder, spec, why=why, gpu=gpu, observe=observe)
    return _follow(library, folder, spec, about, kept, new, gpu=gpu, observe=observe)


def _outgrown(about: dict[str, Any], spec: IndexSpec, library: Library, kept: list[UnitRows], new: Signatures) -> str:
    """Say why an index does not serve any more; nothing if it may."""
    added, count = library.count(new), sum(unit.rows for unit in kept)
    live = count + added
    if not live:
        return "no clip is left"
    trained = int(about["trained"]["clips"])
    if live > _GROWTH * trained:
        return f"it has grown from {trained:,} to {live:,} clips"
    first_then, first_now = (plan_layouts(spec, size, library.width)[0] for size in (trained, live))
    if first_then is None and first_now is not None:
        return f"{live:,} clips are many for comparing with each"
    if about["rows"] + added - live > _HOLES * live:
        return "most of what it held is gone"
    return ""


def _follow(
    library: Library,
    folder: Path,
    spec: IndexSpec,
    about: dict[str, Any],
    kept: list[UnitRows],
    new: Signatures,
    *,
    gpu: bool,
    observe: Observer | None,
) -> Made:
    begun = time.monotonic()
    before = folder / str(about["folder"])
    held = units_of(read_arrow(before / UNITS))
    gone = rows_of([unit for unit in held if unit not in kept])
    with drafting(library, next_folder(folder), after=(before, int(about["rows"]))) as draft:
        first, appended = draft.rows, list[UnitRows]()
        clips = append_units(draft, library, new, spec.metric, appended, observe)
        rows = write_rows(draft, library, kept, appended, chain([_old_clips(before, library)], clips))
        added = np.arange(first, draft.rows)
        chosen = _read_chosen(about, before)
        if chosen.index is not None:
            remove(chosen.index, gone)
            add_rows(chosen.index, rows.vectors, added, observe)
        changed = int(about["changed"]) + len(gone) + len(added)
        is_measured = chosen.index is not None and (
            changed > _UNMEASURED * len(rows.live) or about["spec"] != spec.to_dict()
        )
        if is_measured:
            keep = about["spec"] == spec.to_dict()
            chosen, changed = tune(chosen, rows, spec, keep=keep, gpu=gpu, observe=observe), 0
        why = _fallen_short(about, spec, chosen, len(rows.live)) if is_measured else ""
        if not why:
            how = "updated" if len(added) or len(gone) else "tuned"
            made = Made(how, "", len(added), len(gone), time.monotonic() - begun)
            units, trained = kept + appended, about["trained"]
            if about["spec"] != spec.to_dict():  # what falls short later, falls short of this
                trained = {**trained, "recall": chosen.measured.recall}
            commit_chosen(folder, draft, library, spec, chosen, units, made, changed=changed, trained=trained)
            return made
        draft.abandon()
    return build(library, folder, spec, why=why, gpu=gpu, observe=observe)


def _fallen_short(about: dict[str, Any], spec: IndexSpec, chosen: Chosen, count: int) -> str:
    """Say why an index has to be trained anew for its recall's sake; nothing if that is not so."""
    recall = f"recall@{spec.at} {chosen.measured.recall:.3f} instead of {spec.target_recall:g}"
    if about["spec"] != spec.to_dict():
        return f"this one gives {recall}" if spec.factory == "auto" and not chosen.satisfies(spec) else ""
    # What fell short when it was trained would again.
    trained = about["trained"]["recall"]
    if chosen.measured.recall >= (spec.target_recall if trained >= spec.target_recall else trained - _UNMEASURED):
        return ""
    clips = about["trained"]["clips"]
    if count > 1.5 * clips:
        return f"growth from {clips:,} to {count:,} clips left {recall}"
    return f"clips unlike those that it was trained on left {recall}"


@contextlib.contextmanager
def drafting(library: Library, folder: Path, *, after: tuple[Path, int] | None = None) -> Iterator[Draft]:
    """A draft that is cleared away unless it is finished; a full disk or a read-only one is a LibraryError."""
    try:
        draft = Draft(folder, library.width, library.config.stored, after=after)
        try:
            yield draft
        except BaseException:
            draft.abandon()
            raise
    except OSError as error:
        raise LibraryError(f"{folder.parent}: cannot be written ({error.strerror or error})") from error


def _old_clips(before: Path, library: Library) -> pa.Table:
    schema = clips_schema(library)
    clips = pa.concat_tables([schema.empty_table(), read_arrow(before / CLIPS)], promote_options="default")
    return clips.select(schema.names)


def write_rows(
    draft: Draft, library: Library, kept: list[UnitRows], appended: list[UnitRows], clips: Iterable[pa.Table]
) -> Rows:
    """Write the clips and units of a draft, whose vectors come with the clips.

    Args:
        draft: to write to.
        library: whose clips they are.
        kept: units whose rows it holds already.
        appended: the others; the list fills while the clips come.
        clips: all, in the order of the rows.
    """
    draft.write_table(CLIPS, clips, clips_schema(library))
    units = kept + appended
    draft.write_table(UNITS, [units_table(units)], UNITS_SCHEMA)
    live = rows_of(units)
    videos = read_arrow(draft.folder / CLIPS)["video_id"].combine_chunks().dictionary_encode().indices
    return Rows(draft.vectors(), live, np.asarray(videos, dtype=np.int32)[live])


def _read_chosen(about: dict[str, Any], before: Path) -> Chosen:
    recall = about["recall"]
    return Chosen(
        index=None if about["nprobe"] is None else import_faiss().read_index(str(before / FAISS)),
        factory=about["factory"],
        effort=None if about["nprobe"] is None else Effort(about["nprobe"], about["candidates_a_hit"]),
        measured=Measured(recall["measured"], recall["error"], recall["queries"]),
        latency_ms=about["latency_ms"],
    )


def commit_chosen(
    folder: Path,
    draft: Draft,
    library: Library,
    spec: IndexSpec,
    chosen: Chosen,
    units: list[UnitRows],
    made: Made,
    *,
    changed: int = 0,
    trained: dict[str, Any] | None = None,
) -> None:
    """Make a draft the state that counts.

    Args:
        folder: of the index.
        draft: with vectors, clips and units written.
        library: that it is of.
        spec: what was asked for.
        chosen: what was chosen and measured.
        units: that it holds.
        made: what was done.
        changed: clips added and removed since recall was measured.
        trained: what was said when it was trained; None: it has just been.
    """
    live = sum(unit.rows for unit in units)
    held = float(library.width * np.dtype(library.config.stored).itemsize)
    if chosen.index is not None:
        held = draft.write_faiss(chosen.index) / max(live, 1)
    commit(
        folder,
        draft,
        {
            "state": library.state({unit.unit: unit.signature for unit in sorted(units, key=lambda unit: unit.unit)}),
            "spec": spec.to_dict(),
            "clips": live,
            "factory": chosen.factory,
            "nprobe": chosen.effort.nprobe if chosen.effort else None,
            "candidates_a_hit": chosen.effort.candidates if chosen.effort else None,
            "recall": {"at": spec.at, **{_MEASURED[name]: value for name, value in asdict(chosen.measured).items()}},
            "latency_ms": chosen.latency_ms,
            "bytes_per_vector": round(held, 1),
            "trained": trained or {"clips": live, "recall": chosen.measured.recall, "seconds": made.seconds},
            "changed": changed,
            "made": asdict(made),
        },
    )
