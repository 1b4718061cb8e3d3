"""The files of a unit, and how they are changed.

The clips shard decides: a unit is there exactly when it is, with the tokens of as many clips as it
has rows. What else lies beside it when a run was killed is an orphan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vmae_embed.library.files import remove_leftovers, sync_directory
from vmae_embed.library.shards import count_rows, is_outdated, read_shard, with_listed_values, write_shard
from vmae_embed.library.tokens import copy_tokens, token_file
from vmae_embed.records import Video


def clear_orphans(library: Path, complete: Collection[str]) -> None:
    """Remove what killed runs left in a library: half-written files, and parts of units that are not complete.

    Raises:
        LibraryError: a shard cannot be read.
    """
    for folder in (library, library / "clips", library / "failures", library / "tokens"):
        remove_leftovers(folder)
    for path in (library / "failures").glob("[!.]*.parquet"):
        if path.stem not in complete:
            path.unlink()
    if tokens := list((library / "tokens").glob("[!.]*.npy")):
        counting = token_files(library, complete)
        for path in tokens:
            if path not in counting:
                path.unlink()


def token_files(library: Path, units: Collection[str]) -> dict[Path, int]:
    """Where the tokens of some units lie, or would, and of how many clips they are; units without clips have none.

    Raises:
        LibraryError: a shard cannot be read.
    """
    counts = {unit: count_rows(library / "clips" / f"{unit}.parquet") for unit in units}
    return {token_file(library / "tokens", unit, clips): clips for unit, clips in counts.items() if clips}


def remove_from_unit(library: Path, unit: str, video_ids: Collection[str], token_shape: tuple[int, int] | None) -> None:
    """Drop videos from a unit, and the unit with the last of them.

    Args:
        library: directory of the library.
        unit: its name.
        video_ids: some of which it holds.
        token_shape: (N, D) of the clips' tokens; None where none are stored.

    Raises:
        LibraryError: a file of it cannot be read or written.
    """
    clips_path, failures_path = (library / folder / f"{unit}.parquet" for folder in ("clips", "failures"))
    # Checked: rewriting a damaged page would give it a checksum that fits.
    before = read_shard(clips_path, check=True)
    is_kept = _of_others(before, video_ids)
    clips = before.filter(is_kept)
    failures = None
    if failures_path.exists():
        failures = read_shard(failures_path, check=True)
        failures = failures.filter(_of_others(failures, video_ids))
    tokens, rest = (token_file(library / "tokens", unit, table.num_rows) for table in (before, clips))
    if token_shape is not None and 0 < clips.num_rows < before.num_rows:
        # Beside those that count until the shard is replaced.
        kept = np.flatnonzero(is_kept.to_numpy(zero_copy_only=False)).tolist()
        copy_tokens(tokens, rest, (before.num_rows, *token_shape), kept)
    if not clips.num_rows and (failures is None or not failures.num_rows):
        # Without its clips shard the unit is gone; a kill here leaves orphans.
        clips_path.unlink()
        sync_directory(clips_path.parent)
        failures_path.unlink(missing_ok=True)
    else:
        write_shard(clips_path, clips)
        if failures is not None and failures.num_rows:
            write_shard(failures_path, failures)
        else:
            failures_path.unlink(missing_ok=True)
    if tokens != rest:
        tokens.unlink(missing_ok=True)


def list_anew(path: Path, listed: Mapping[str, Video], schema: pa.Schema, columns: Collection[str]) -> int:
    """Give a shard's clips the paths and carried values that their videos are listed with now.

    Args:
        path: of the shard.
        listed: videos by id; those whose files changed are left alone.
        schema: of the library's clip rows.
        columns: carried by the present listing.

    Returns:
        How many videos' rows were rewritten.
    """
    wanted = {"video_id", "path", "fingerprint", *columns}
    table = read_shard(
        path, pa.schema([field for field in schema if field.name in wanted]), optional=columns, check=True
    )
    stale = {
        row["video_id"]
        for row in table.group_by(table.column_names).aggregate([]).to_pylist()
        if row["video_id"] in listed and is_outdated(row, listed[row["video_id"]], columns)
    }
    if stale:
        clips = pa.concat_tables([schema.empty_table(), read_shard(path, check=True)], promote_options="default")
        write_shard(path, with_listed_values(clips, {name: listed[name] for name in stale}, columns))
    return len(stale)


def _of_others(table: pa.Table, video_ids: Collection[str]) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))
