"""A library: a directory of shards that one encoder configuration made."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, UsageError
from vmae_embed.library.config import LibraryConfig
from vmae_embed.library.files import exclusive, remove_leftovers, require_own_place, write_atomically
from vmae_embed.library.shards import (
    FAILURE_SCHEMA,
    RESERVED,
    clip_schema,
    count_rows,
    failure_rows,
    read_shard,
    to_matrix,
    write_shard,
)
from vmae_embed.library.tokens import Tokens, TokenSpool
from vmae_embed.library.units import clear_orphans, list_anew, remove_from_unit, token_files
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import Failure, Video

# Entries of runs that ``library.json`` keeps.
_MOST_RUNS = 20

_HELD_SCHEMA = pa.schema([(name, pa.string()) for name in ("video_id", "path", "fingerprint")])


@dataclass(frozen=True, slots=True)
class Held:
    """A video that the library already holds, as clips or as a failure."""

    unit: str
    path: str
    fingerprint: str
    failed: bool


class Library:
    """A directory that holds the shards of one encoder configuration.

    Attributes:
        path: of the directory.
        config: what its ``library.json`` says.
    """

    def __init__(self, path: Path, config: LibraryConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: str | Path) -> Library:
        """Open an existing library.

        Raises:
            LibraryError: the directory is none, or its ``library.json`` is damaged.
        """
        folder = Path(path)
        try:
            return cls(folder, LibraryConfig.from_json((folder / "library.json").read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            hint = "no such directory" if not folder.exists() else "it has no library.json"
            if (folder / "preset.json").exists():
                raise LibraryError(
                    f"{folder}: holds the views of a preset, not a library; name one, as {folder}/1-centre"
                ) from None
            raise LibraryError(
                f"{folder}: not a library ({hint}); make one with `vmae-embed extract VIDEOS -o {folder}`"
            ) from None
        except OSError as error:
            raise LibraryError(f"{folder}/library.json: cannot be read ({error.strerror})") from error
        except (KeyError, TypeError, ValueError, UsageError, AttributeError) as error:
            detail = " ".join(str(error).split())[:200]
            raise LibraryError(f"{folder}/library.json: not what this version writes ({detail})") from error

    @classmethod
    def create(cls, path: str | Path, config: LibraryConfig) -> Library:
        """Make a library in a new or empty directory.

        Raises:
            LibraryError: there is something else in the directory, or it cannot be written to.
        """
        library = cls(Path(path), config)
        require_own_place(library.path)
        library._write_config()
        return library

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: str | Path, config: LibraryConfig) -> Iterator[Library]:
        """Open a library for a run that writes to it, or make it; other runs are kept out.

        Raises:
            LibraryLocked: another run is writing to it.
            LibraryError: the directory is something else, or cannot be written to.
            IdentityMismatch: the library was made otherwise.
        """
        library = cls(Path(path), config)
        if not os.path.exists(library.path / "library.json"):
            require_own_place(library.path)
            try:
                library.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LibraryError(f"{library.path}: cannot be made ({error.strerror}); give another name") from error
        with library.lock():
            # Looked at again, now that nobody else can make or change it.
            if os.path.exists(library.path / "library.json"):
                library.config = cls.open(path).config
                library.check_continuable(config)
            else:
                require_own_place(library.path)
                library._write_config()
            yield library

    # What it holds -------------------------------------------------------------------------------

    def units(self) -> list[str]:
        """Names of the complete units, sorted."""
        return sorted(path.stem for path in self._clips.glob("[!.]*.parquet"))

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Read all clip rows, in the order of the units' names.

        Args:
            columns: to read; None for all. Carried columns that a shard lacks are null.

        Raises:
            LibraryError: a shard cannot be read.
            UsageError: no such column.
        """
        schema = self.schema
        if columns is not None:
            unknown = [name for name in columns if name not in schema.names]
            if unknown:
                raise UsageError(f"column {unknown[0]!r}: the library has {', '.join(schema.names)}")
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self.shards(schema.names)], promote_options="default")

    def embeddings(self) -> NDArray[np.float32]:
        """``(B, D)`` float32, a row for each row of `table`."""
        return to_matrix(self.table(["embedding"])["embedding"], self.width)

    def tokens(self) -> Tokens:
        """``(B, N, D)`` float16, a row for each row of `table`; read from disk as they are asked for.

        Raises:
            LibraryError: the library stores none, or a shard cannot be read.
        """
        if self.token_shape is None:
            raise LibraryError(f"{self.path}: stores no tokens; extract with --store tokens into another directory")
        return Tokens(list(token_files(self.path, self.units()).items()), self.token_shape)

    def column(self, name: str) -> list[Any]:
        """One column as a list, a value for each row of `table`."""
        values: list[Any] = self.table([name])[name].to_pylist()
        return values

    def failures(self) -> list[Failure]:
        """The videos that failed."""
        found = []
        for unit in self.units():
            path = self._failures / f"{unit}.parquet"
            if path.exists():
                found += [Failure(**row) for row in read_shard(path, FAILURE_SCHEMA, check=True).to_pylist()]
        return found

    def held(self) -> dict[str, Held]:
        """Every video that a complete unit accounts for, by id."""
        videos: dict[str, Held] = {}
        for unit in self.units():
            for folder in (self._clips, self._failures):
                path = folder / f"{unit}.parquet"
                if folder == self._clips or path.exists():
                    table = read_shard(path, _HELD_SCHEMA, check=True)
                    for row in table.group_by(table.column_names).aggregate([]).to_pylist():
                        videos[row["video_id"]] = Held(
                            unit, row["path"], row["fingerprint"], failed=folder == self._failures
                        )
        return videos

    def shards(
        self, columns: list[str] | None = None, units: list[str] | None = None, *, check: bool = False
    ) -> Iterator[pa.Table]:
        """Read the clip rows shard by shard: `table` in pieces, for libraries larger than memory.

        Args:
            columns: to read; None for all.
            units: whose; None for all that are complete now.
            check: verify the checksum of every page.
        """
        schema = pa.schema([field for field in self.schema if columns is None or field.name in columns])
        for unit in self.units() if units is None else units:
            yield read_shard(self._clips / f"{unit}.parquet", schema, optional=self.config.columns, check=check)

    def signatures(self) -> dict[str, tuple[int, int]]:
        """Size in bytes and time of modification in nanoseconds of each complete unit's shard, by name."""
        found = {unit: self.signature_of(unit) for unit in self.units()}
        return {unit: signature for unit, signature in found.items() if signature is not None}

    def signature_of(self, unit: str) -> tuple[int, int] | None:
        """The same of one unit; None if it is not there."""
        try:
            status = (self._clips / f"{unit}.parquet").stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def state(self, signatures: Mapping[str, tuple[int, int]] | None = None) -> str:
        """Changes when the clip rows do; read from the directory alone."""
        digest = hashlib.sha256()
        for unit, (size, mtime_ns) in (self.signatures() if signatures is None else signatures).items():
            digest.update(f"{unit} {size} {mtime_ns}\n".encode())
        return digest.hexdigest()

    def count(self, units: Collection[str]) -> int:
        """Clips of some units."""
        return sum(count_rows(self._clips / f"{unit}.parquet") for unit in units)

    def __len__(self) -> int:
        return self.count(self.units())

    @property
    def width(self) -> int:
        """D, of its embeddings."""
        return int(self.config.encoder["width"])

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """(N, D) of a clip's tokens; None where the library stores none."""
        return None if self.config.tokens is None else (self.config.tokens, self.width)

    @property
    def schema(self) -> pa.Schema:
        """Of its clip rows."""
        return clip_schema(self.width, self.config.stored, self.config.columns)

    @property
    def index_path(self) -> Path:
        """Directory of its index."""
        return self.path / "index"

    @property
    def _clips(self) -> Path:
        return self.path / "clips"

    @property
    def _failures(self) -> Path:
        return self.path / "failures"

    @property
    def _tokens(self) -> Path:
        return self.path / "tokens"

    # Changing it, under `lock` -------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out while this one writes; clear away what killed runs left.

        Raises:
            LibraryLocked: another run holds it.
            LibraryError: the directory cannot be read.
        """
        with exclusive(self.path, "another run is writing to it"):
            clear_orphans(self.path, self.units())
            try:
                yield
            finally:
                remove_leftovers(self._tokens)  # of units that were not completed

    def write_unit(
        self,
        unit: str,
        clips: pa.Table,
        failures: list[Failure],
        tokens: TokenSpool | None = None,
        kept: Sequence[int] = (),
    ) -> None:
        """Commit a unit. It is complete when, and only when, its clips shard is in place.

        Args:
            unit: its name.
            clips: rows in the library's schema; none, if every video of it failed.
            failures: its failed videos.
            tokens: from `spool_tokens`, where the library stores them.
            kept: places in there of the clips' tokens, in order.

        Raises:
            LibraryError: an embedding is not finite, the disk is full, or the directory cannot be written to.
        """
        finite = np.isfinite(to_matrix(clips["embedding"], self.width)).all(axis=1)
        if not finite.all():
            name, others = clips["clip_id"][int(np.argmin(finite))].as_py(), int((~finite).sum()) - 1
            raise LibraryError(
                f"{self.path}: the embedding of {name}{f' and of {others:,} more' if others else ''} is not "
                "finite; nothing of its unit was written"
            )
        if failures:
            write_shard(self._failures / f"{unit}.parquet", failure_rows(failures))
        if tokens is not None:
            assert len(kept) == clips.num_rows
            tokens.commit(kept)
        write_shard(self._clips / f"{unit}.parquet", clips)

    def spool_tokens(self, unit: str) -> TokenSpool | None:
        """Where a unit's tokens go while its clips are encoded; None where the library stores none."""
        return None if self.token_shape is None else TokenSpool(self._tokens, unit, self.token_shape)

    def remove_videos(self, video_ids: Collection[str]) -> None:
        """Drop videos, rewriting the units that hold them.

        Raises:
            LibraryError: a unit's file cannot be read or written.
        """
        held = self.held()
        for unit in sorted({held[video_id].unit for video_id in video_ids if video_id in held}):
            remove_from_unit(self.path, unit, video_ids, self.token_shape)

    def update_videos(self, videos: Collection[Video], columns: Collection[str]) -> int:
        """Give held clips the paths and carried values that their videos are listed with now.

        Args:
            videos: as listed; those whose files changed are left alone.
            columns: carried by the present listing.

        Returns:
            How many videos' rows were rewritten.
        """
        listed = {video.id: video for video in videos}
        return sum(list_anew(self._clips / f"{unit}.parquet", listed, self.schema, columns) for unit in self.units())

    def carry_columns(self, columns: Mapping[str, str]) -> None:
        """Make room for a manifest's columns.

        Raises:
            UsageError: a column has a library column's name, or was carried as another type before.
        """
        for name, kind in columns.items():
            if name in RESERVED:
                raise UsageError(f"column {name!r}: every library has a column of that name; rename yours")
            before = self.config.columns.get(name, kind)
            if before != kind:
                raise UsageError(f"column {name!r} is {kind}, but this library carries it as {before}")
        if set(columns) - set(self.config.columns):
            self.config = replace(self.config, columns={**self.config.columns, **columns})
            self._write_config()

    def log_run(self, entry: Mapping[str, Any]) -> None:
        """Keep what a run says of itself, in the place of what it said before.

        Args:
            entry: ready for JSON; runs are told apart by its ``started``.

        Raises:
            LibraryError: ``library.json`` cannot be written.
        """
        others = [run for run in self.config.runs if run.get("started") != entry["started"]]
        self.config = replace(self.config, runs=(*others, entry)[-_MOST_RUNS:])
        self._write_config()

    def check_comparable(self, encoder: Mapping[str, Any], preprocessing: Preprocessing | None) -> None:
        """Refuse an encoder whose embeddings cannot be compared with the library's.

        Raises:
            IdentityMismatch: naming both.
        """
        self.config.check_comparable(str(self.path), encoder, preprocessing)

    def check_continuable(self, config: LibraryConfig) -> None:
        """Refuse to add rows that another configuration would make.

        Raises:
            IdentityMismatch: naming both.
        """
        self.config.check_continuable(str(self.path), config)

    def _write_config(self) -> None:
        write_atomically(self.path / "library.json", partial(_write_bytes, self.config.to_json()))


def _write_bytes(data: bytes, file: BinaryIO) -> None:
    file.write(data)
