"""Is a library whole? Every shard read, every promise of the format checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from vmae_embed.errors import LibraryError
from vmae_embed.library.files import TEMPORARY_SUFFIX
from vmae_embed.library.shards import CLIP_COLUMNS, FAILURE_SCHEMA, misfits, read_shard, to_matrix
from vmae_embed.library.store import Library
from vmae_embed.library.tokens import blocks_of_tokens, token_file
from vmae_embed.records import clip_id


def verify(library: Library) -> list[str]:
    """Check a library.

    Returns:
        One line for each thing that is wrong; none if it is whole.
    """
    problems: list[str] = []
    clip_units: dict[str, str] = {}
    video_units: dict[str, str] = {}
    counts: dict[str, int] = {}
    for unit in library.units():
        name = f"clips/{unit}.parquet"
        try:
            table = read_shard(library.path / name, check=True)
        except LibraryError as error:
            problems.append(str(error))
            continue
        counts[unit] = table.num_rows
        problems += _check_tokens(library, unit, table.num_rows)
        if wrong := misfits(table.schema, library.schema, optional=library.config.columns):
            problems += [f"{name}: {problem}" for problem in wrong]
            continue
        unknown = [column for column in table.column_names if column not in library.schema.names]
        problems += [f"{name}: column {column!r} is not in library.json" for column in unknown]
        if nulls := [column for column in CLIP_COLUMNS if table[column].null_count]:
            problems.append(f"{name}: values are missing in {', '.join(nulls)}")
            continue
        problems += _check_rows(library, table, name)
        for row_clip in table["clip_id"].to_pylist():
            if (other := clip_units.setdefault(row_clip, name)) != name:
                problems.append(f"{name}: clip {row_clip} is in {other} too")
        videos = set(table["video_id"].to_pylist())
        failures_name = f"failures/{unit}.parquet"
        if (library.path / failures_name).exists():
            try:
                failures = read_shard(library.path / failures_name, check=True)
            except LibraryError as error:
                problems.append(str(error))
                continue
            if wrong := misfits(failures.schema, FAILURE_SCHEMA):
                problems += [f"{failures_name}: {problem}" for problem in wrong]
                continue
            if failures["video_id"].null_count:
                problems.append(f"{failures_name}: values are missing in video_id")
                continue
            failed = failures["video_id"].to_pylist()
            problems += [f"{failures_name}: {v} both failed and has clips" for v in failed if v in videos]
            videos |= set(failed)
        # What was imported came in rows, not in videos.
        for video in sorted(videos) if not library.config.imported else ():
            if (other := video_units.setdefault(video, name)) != name:
                problems.append(f"{name}: video {video} is in {other} too")
    return problems + _check_strays(library, counts)


def _check_rows(library: Library, table: pa.Table, name: str) -> list[str]:
    problems = []
    ids = table["clip_id"].to_pylist()
    if len(set(ids)) != len(ids):
        problems.append(f"{name}: {len(ids) - len(set(ids))} clip ids occur twice")
    if not library.config.imported:  # there, ids are their owner's
        columns = (table[column].to_pylist() for column in ("video_id", "start_s", "end_s"))
        expected = [clip_id(*row) for row in zip(*columns, strict=True)]
        wrong = sum(a != b for a, b in zip(ids, expected, strict=True))
        if wrong:
            problems.append(f"{name}: {wrong} clip ids do not say what their rows say")
    matrix = to_matrix(table["embedding"], library.width)
    broken = int((~np.isfinite(matrix).all(axis=1)).sum())
    if broken:
        problems.append(f"{name}: {broken} embeddings are not finite")
    empty = int((np.abs(matrix).max(axis=1, initial=0) == 0).sum())
    if empty and not library.config.imported:  # no encoder of ours gives them; import says how many it takes
        problems.append(f"{name}: {empty} embeddings are all zero")
    return problems


def _check_tokens(library: Library, unit: str, clips: int) -> list[str]:
    if library.token_shape is None or not clips:
        return []
    path = token_file(library.path / "tokens", unit, clips)
    try:
        blocks = blocks_of_tokens(path, (clips, *library.token_shape))
        broken = sum(int((~np.isfinite(block).all(axis=(1, 2))).sum()) for block in blocks)
    except LibraryError as error:
        return [str(error)]
    return [f"tokens/{path.name}: tokens of {broken} clips are not finite"] if broken else []


def _check_strays(library: Library, counts: Mapping[str, int]) -> list[str]:
    """What lies in the library's folders and is no part of it; counts are clips of the units that can be read."""
    problems = []
    verb = "import" if library.config.imported else "extract"
    complete = set(library.units())
    suffixes = {"clips": ".parquet", "failures": ".parquet", "tokens": None if library.token_shape is None else ".npy"}
    for folder, suffix in suffixes.items():
        for path in sorted((library.path / folder).glob("*")):
            name = f"{folder}/{path.name}"
            unit, _, clips = path.stem.rpartition("-")
            if path.name.endswith(TEMPORARY_SUFFIX):
                problems.append(f"{name}: left by a killed run; the next {verb} clears it")
            elif path.suffix != suffix or path.name.startswith("."):
                problems.append(f"{name}: no part of a library")
            elif folder == "failures" and path.stem not in complete:
                problems.append(f"{name}: its unit is not complete; the next {verb} clears it")
            elif folder == "tokens" and (unit not in complete or str(counts.get(unit, clips)) != clips):
                problems.append(f"{name}: no complete unit has these clips; the next {verb} clears it")
    return problems
