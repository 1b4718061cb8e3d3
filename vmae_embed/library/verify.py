"""Is a library whole? Every shard read, every promise of the format checked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vmae_embed.errors import LibraryError
from vmae_embed.library.files import TEMPORARY_SUFFIX
from vmae_embed.library.shards import CLIP_COLUMNS, FAILURE_SCHEMA, misfits, read_shard, to_matrix
from vmae_embed.library.store import Library
from vmae_embed.records import clip_id


def verify(library: Library) -> list[str]:
    """Check a library.

    Returns:
        One line for each thing that is wrong; none if it is whole.
    """
    problems: list[str] = []
    clip_units: dict[str, str] = {}
    video_units: dict[str, str] = {}
    for unit in library.units():
        name = f"clips/{unit}.parquet"
        try:
            table = read_shard(library.path / name, check=True)
        except LibraryError as error:
            problems.append(str(error))
            continue
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
    return problems + _check_strays(library)


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


def _check_strays(library: Library) -> list[str]:
    problems = []
    verb = "import" if library.config.imported else "extract"
    complete = set(library.units())
    for folder in ("clips", "failures"):
        for path in sorted((library.path / folder).glob("*")):
            if path.name.endswith(TEMPORARY_SUFFIX):
                problems.append(f"{folder}/{path.name}: left by a killed run; the next {verb} clears it")
            elif path.suffix != ".parquet" or path.name.startswith("."):
                problems.append(f"{folder}/{path.name}: no part of a library")
            elif folder == "failures" and path.stem not in complete:
                problems.append(f"{folder}/{path.name}: its unit is not complete; the next {verb} clears it")
    return problems
