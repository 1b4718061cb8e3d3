"""Building a library's index, and making it follow: what changed is added and removed, and measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, SearchIndexError, UsageError
from vmae_embed.index.ann import Effort, remove
from vmae_embed.index.backend import import_faiss
from vmae_embed.index.choose import Chosen, Rows, add_rows, choose, exact, tune
from vmae_embed.index.generation import (
    CLIPS,
    FAISS,
    UNITS,
    UNITS_SCHEMA,
    VECTORS,
    Draft,
    commit,
    map_vectors,
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
    prepare,
    read_unit,
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
    why = ""
    try:
        about = read_about(folder)
        why = "what was stored of it is damaged"
        current = folder / str(about["folder"])
        before, held = IndexSpec.from_dict(about["spec"]), units_of(read_arrow(current / UNITS))
        clips, vectors = read_arrow(current / CLIPS), map_vectors(current / VECTORS, int(about["rows"]))
        if about["nprobe"] is not None and (current / FAISS).stat().st_size != about["faiss_bytes"]:
            raise ValueError("another size than was written")
    except (OSError, ValueError, KeyError, TypeError, UsageError, pa.ArrowException):
        return build(library, folder, spec, why=why, gpu=gpu, observe=observe)
    if not before.builds_as(spec):
        return build(library, folder, spec, why="another index was asked for", gpu=gpu, observe=observe)
    signatures = library.signatures()
    kept = [
        unit if signatures[unit.unit] == unit.signature else replace(unit, mtime_ns=signatures[unit.unit][1])
        for unit in held
        if unit.unit in signatures
        and (signatures[unit.unit] == unit.signature or _is_copied(library, unit, signatures, clips, vectors, spec))
    ]
    known = {unit.unit for unit in kept}
    new = {unit: signature for unit, signature in signatures.items() if unit not in known}
    if before == spec and not new and kept == held:
        return Made("unchanged")
    if why := _outgrown(about, spec, library, kept, new):
        return build(library, folder, spec, why=why, gpu=gpu, observe=observe)
    return _follow(library, folder, spec, about, kept, new, gpu=gpu, observe=observe)


def _is_copied(
    library: Library,
    unit: UnitRows,
    signatures: Signatures,
    clips: pa.Table,
    vectors: NDArray[Any],
    spec: IndexSpec,
) -> bool:
    """Whether a shard has another time but holds the same, as after a library was copied."""
    if signatures[unit.unit][0] != unit.size:
        return False
    matrix, now = read_unit(library, unit.unit)
    rows = slice(unit.first, unit.first + unit.rows)
    return (
        now is not None
        and now.equals(_as_now(clips.slice(unit.first, unit.rows), library))
        and np.array_equal(prepare(matrix, spec.metric).astype(vectors.dtype), vectors[rows])
    )


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
        return f"{about['rows'] + added - live:,} of its {about['rows'] + added:,} rows were of removed clips"
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
    known = {unit.unit for unit in kept}
    gone = rows_of([unit for unit in held if unit.unit not in known])
    with drafting(library, next_folder(folder), after=(before, int(about["rows"]))) as draft:
        first, appended = draft.rows, list[UnitRows]()
        clips = append_units(draft, library, new, spec.metric, appended, observe)
        rows = write_rows(draft, library, kept, appended, chain([_as_now(read_arrow(before / CLIPS), library)], clips))
        added = np.arange(first, draft.rows)
        chosen = _read_chosen(about, before)
        if chosen.index is not None:
            remove(chosen.index, gone)
            add_rows(chosen.index, rows.vectors, added, observe)
        changed = int(about["changed"]) + len(gone) + len(added)
        is_same = about["spec"] == spec.to_dict()
        is_measured = changed > _UNMEASURED * len(rows.live) or not is_same
        if is_measured and chosen.index is None:
            chosen, changed = exact(rows, spec), 0
        elif is_measured:
            chosen, changed = tune(chosen, rows, spec, keep=is_same, gpu=gpu, observe=observe), 0
        why = _fallen_short(about, spec, chosen, len(rows.live)) if is_measured else ""
        if not why:
            how = "updated" if len(added) or len(gone) or is_same else "tuned"
            made = Made(how, "", len(added), len(gone), time.monotonic() - begun)
            units, trained = kept + appended, about["trained"]
            if not is_same:  # what falls short later, falls short of this
                trained = {**trained, "recall": chosen.measured.recall}
            commit_chosen(folder, draft, library, spec, chosen, units, made, changed=changed, trained=trained)
            return made
        draft.abandon()
    return build(library, folder, spec, why=why, gpu=gpu, observe=observe)


def _fallen_short(about: dict[str, Any], spec: IndexSpec, chosen: Chosen, count: int) -> str:
    """Say why an index has to be trained anew for its recall's sake; nothing if that is not so."""
    recall = f"recall@{spec.at} {chosen.measured.recall:.3f} instead of {spec.target_recall:g}"
    if about["spec"] != spec.to_dict():
        if spec.factory != "auto" or chosen.satisfies(spec):
            return ""
        if chosen.index is None:
            return f"comparing with each takes {chosen.latency_ms['p50']:.2f} ms"
        # What is short for the sake of time, would be so again.
        return "" if spec.latency_ms is not None else f"this one gives {recall}"
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


def _as_now(clips: pa.Table, library: Library) -> pa.Table:
    """Clips with the columns that the library carries now."""
    schema = clips_schema(library)
    return pa.concat_tables([schema.empty_table(), clips], promote_options="default").select(schema.names)


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
    # Piece by piece: Arrow joins no more than 2 GiB of text.
    videos = read_arrow(draft.folder / CLIPS)["video_id"].dictionary_encode().unify_dictionaries()
    numbers = [np.asarray(piece.indices, dtype=np.int32) for piece in videos.chunks]
    return Rows(draft.vectors(), live, np.concatenate([np.empty(0, np.int32), *numbers])[live])


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
    written = None if chosen.index is None else draft.write_faiss(chosen.index)
    held = library.width * np.dtype(library.config.stored).itemsize if written is None else written / max(live, 1)
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
            "faiss_bytes": written,
            "trained": trained or {"clips": live, "recall": chosen.measured.recall, "seconds": made.seconds},
            "changed": changed,
            "made": asdict(made),
        },
    )
