"""Building an index in parts, by several processes or machines that share the library's directory.

Whoever comes first shares the clips out and trains, while the others wait; each part adds its share to the same
trained index; whoever finishes last merges them. A part that died is run again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.index.backend import import_faiss, write_faiss
from vmae_embed.index.build import Made, commit_chosen, drafting, write_rows
from vmae_embed.index.choose import Chosen, add_rows, tune
from vmae_embed.index.generation import (
    CLIPS,
    FAISS,
    LOCK,
    UNITS,
    VECTORS,
    map_vectors,
    next_folder,
    read_arrow,
    write_json,
    writing,
)
from vmae_embed.index.rows import Observer, UnitRows, append_units, prepare, read_unit, units_of
from vmae_embed.index.spec import IndexSpec, plan_layouts
from vmae_embed.index.train import pack, train, training_size, unpack
from vmae_embed.index.tune import Measured
from vmae_embed.library import Library, exclusive, write_atomically

_PLAN, _TRAINED = "plan.json", "trained.faiss"
# Shards whose vectors are trained on, at most.
_SHARDS = 512
_BLOCK = 16384


def build_part(
    library: Library,
    index_folder: Path,
    spec: IndexSpec,
    number: int,
    of: int,
    *,
    gpu: bool = False,
    observe: Observer | None = None,
) -> Made | None:
    """Build one part of an index; the last to finish merges them all.

    Args:
        library: to index.
        index_folder: of the library.
        spec: what is asked of the index; the same for all parts.
        number: of this part, from 1.
        of: how many there are.
        gpu: cluster on a GPU.
        observe: is told what is being done.

    Returns:
        What the merge made; None while other parts are missing.

    Raises:
        UsageError: no such part, parts of another plan are there, or the clips are too few for parts.
        SearchIndexError, LibraryError: as `vmae_embed.index.build.build` does.
    """
    if not 1 <= number <= of:
        raise UsageError(f"part={number}/{of}: give 1/{of} to {of}/{of}")
    folder = index_folder / "parts"
    with _alone(folder):
        plan = _plan(library, folder, spec, of, gpu=gpu, observe=observe)
    mine = folder / f"{number:04}"
    with exclusive(folder, "another process builds this part", name=f".{mine.name}.lock"):
        if not mine.exists():
            _fill(library, folder, mine, plan["shares"][number - 1], spec, observe)
    with _alone(folder):
        parts = [folder / f"{each:04}" for each in range(1, of + 1)]
        if not all(part.exists() for part in parts):
            return None
        with writing(index_folder):
            made = _merge(library, index_folder, parts, spec, plan, gpu=gpu, observe=observe)
        shutil.rmtree(folder)
        return made


def planned_spec(index_folder: Path) -> IndexSpec | None:
    """What parts that were begun were asked for; None if there are none."""
    try:
        plan = json.loads((index_folder / "parts" / _PLAN).read_text(encoding="utf-8"))
        return IndexSpec.from_dict(plan["spec"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other part plans or merges."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be written ({error.strerror or error})") from error
    with exclusive(folder, "another part plans or merges", name=LOCK, wait=True):
        yield


def _plan(
    library: Library, folder: Path, spec: IndexSpec, of: int, *, gpu: bool, observe: Observer | None
) -> dict[str, Any]:
    """Read the plan, or make it: the units of each part, and a trained index."""
    try:
        plan: dict[str, Any] = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        plan = _make_plan(library, folder, spec, of, gpu=gpu, observe=observe)
    if plan["spec"] != spec.to_dict() or plan["of"] != of:
        raise UsageError(
            f"{folder} holds parts of another plan: {plan['of']}, with factory {plan['spec']['factory']}; "
            "give the options that they were begun with, or delete it"
        )
    return plan


def _make_plan(
    library: Library, folder: Path, spec: IndexSpec, of: int, *, gpu: bool, observe: Observer | None
) -> dict[str, Any]:
    signatures = library.signatures()
    counts = np.array([library.count([unit]) for unit in signatures], dtype=np.int64)
    layout = plan_layouts(spec, int(counts.sum()), library.width)[0] if counts.sum() else None
    if layout is None:
        raise UsageError(f"{counts.sum():,} clips need no parts: run `vmae-embed index {library.path}` without --part")
    if layout.code == "RaBitQfs":
        raise UsageError("factory with RaBitQfs: its parts cannot be merged; use RaBitQ, or no --part")
    if observe is not None:
        observe(f"training {layout.factory}", 0, 1)
    sample = _sample(library, list(signatures), training_size(layout, spec.train_size), spec)
    index = train(layout, sample, spec.metric, spec.seed, gpu=gpu)
    try:
        write_faiss(unpack(index), folder / _TRAINED)
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be written ({error.strerror or error})") from error
    # Neighbouring units, as many clips to each part as can be.
    part = (np.cumsum(counts) - counts) * of // counts.sum()
    shares = [
        {unit: signature for (unit, signature), place in zip(signatures.items(), part, strict=True) if place == each}
        for each in range(of)
    ]
    plan = {"spec": spec.to_dict(), "of": of, "factory": layout.factory, "shares": shares}
    write_atomically(folder / _PLAN, partial(write_json, plan))
    return json.loads(json.dumps(plan))  # type: ignore[no-any-return]


def _sample(library: Library, units: list[str], size: int, spec: IndexSpec) -> NDArray[np.float32]:
    """Vectors to train on, ``(N, D)``, from shards all over the library."""
    rng = np.random.default_rng(spec.seed)
    found: list[NDArray[np.float32]] = []
    chosen = rng.permutation(len(units))
    each = 2 * -(-size // min(len(units), _SHARDS))  # some hold fewer than their share
    for shard in chosen:
        if sum(map(len, found)) >= size:
            break
        matrix, _ = read_unit(library, units[shard])
        found.append(prepare(matrix[rng.permutation(len(matrix))[:each]], spec.metric).astype(np.float32))
    return np.concatenate(found)[:size]


def _fill(
    library: Library,
    folder: Path,
    mine: Path,
    share: dict[str, list[int]],
    spec: IndexSpec,
    observe: Observer | None,
) -> None:
    """Make the files of a part, which has its name when it is whole."""
    unfinished = folder / f".{mine.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    with drafting(library, unfinished) as draft:
        units: list[UnitRows] = []
        signatures = {unit: (size, mtime_ns) for unit, (size, mtime_ns) in share.items()}
        rows = write_rows(
            draft, library, [], units, append_units(draft, library, signatures, spec.metric, units, observe)
        )
        index = import_faiss().read_index(str(folder / _TRAINED))
        add_rows(index, rows.vectors, rows.live, observe)
        draft.write_faiss(index)
        draft.finish()
        unfinished.rename(mine)


def _merge(
    library: Library,
    index_folder: Path,
    parts: list[Path],
    spec: IndexSpec,
    plan: dict[str, Any],
    *,
    gpu: bool,
    observe: Observer | None,
) -> Made:
    begun = time.monotonic()
    faiss = import_faiss()
    with drafting(library, next_folder(index_folder)) as draft:
        units: list[UnitRows] = []
        index = faiss.read_index(str(parts[0].parent / _TRAINED))

        def clips() -> Iterator[pa.Table]:
            for number, part in enumerate(parts):
                if observe is not None:
                    observe("merging parts", number, len(parts))
                table, first = read_arrow(part / CLIPS), draft.rows
                index.merge_from(faiss.read_index(str(part / FAISS)), first)
                units.extend(
                    UnitRows(unit.unit, unit.size, unit.mtime_ns, first + unit.first, unit.rows)
                    for unit in units_of(read_arrow(part / UNITS))
                )
                vectors = map_vectors(part / VECTORS, table.num_rows)
                for start in range(0, len(vectors), _BLOCK):
                    draft.append(vectors[start : start + _BLOCK])
                yield table

        rows = write_rows(draft, library, [], units, clips())
        merged = Chosen(pack(index, plan["factory"]), plan["factory"], None, Measured(0, 0, 0), {})
        chosen = tune(merged, rows, spec, gpu=gpu, observe=observe)
        made = Made("built", f"from {len(parts)} parts", len(rows.live), 0, time.monotonic() - begun)
        commit_chosen(index_folder, draft, library, spec, chosen, units, made)
    return made
