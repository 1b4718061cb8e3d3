"""What is imported, read block by block: looked through once before a row of it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.importer.columns import Columns, make_rows
from vmae_embed.importer.ids import Ids
from vmae_embed.importer.vectors import Vectors
from vmae_embed.library import Library, LibraryConfig

# Told what is done (checking, writing), how many vectors of it are, and how many there are.
Observer = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that become a shard: its name, and which they are."""

    unit: str
    start: int
    stop: int


@dataclass
class _Wrong:
    """How many vectors are wrong in one way, and the first of them."""

    count: int = 0
    first: int = 0

    def add(self, start: int, wrong: NDArray[np.bool_]) -> None:
        if not self.count:
            self.first = start + int(np.argmax(wrong))
        self.count += int(wrong.sum())

    def __str__(self) -> str:
        if self.count == 1:
            return f"row {self.first}, counted from 0, is"
        return f"{self.count:,} vectors, the first in row {self.first}, counted from 0, are"


@dataclass
class Survey:
    """What was seen of the vectors before any was written."""

    ids: Ids = field(default_factory=Ids)
    broken: _Wrong = field(default_factory=_Wrong)
    too_large: _Wrong = field(default_factory=_Wrong)
    zeros: int = 0


class Source:
    """Rows to import, read block by block."""

    def __init__(self, vectors: Vectors, columns: Columns, config: LibraryConfig) -> None:
        self._vectors, self._columns, self._stored = vectors, columns, np.dtype(config.stored)
        self._schema = Library(Path(), replace(config, columns=columns.carried)).schema

    def rows(self, blocks: Sequence[Block], schema: pa.Schema) -> Iterator[pa.Table]:
        """Make the rows of each block.

        Raises:
            UsageError: they cannot be read, or a value is missing or does not fit.
        """
        for block, vectors, columns in self._read(blocks):
            yield make_rows(columns, self._columns.id_column, self._store(vectors), block.start, schema)

    def survey(self, blocks: Sequence[Block], observe: Observer | None) -> Survey:
        """Look through blocks for what cannot be imported, before any is.

        Raises:
            UsageError: there is something.
        """
        seen = Survey()
        done, total = 0, count_rows(blocks)
        for block, vectors, columns in self._read(blocks):
            stored = self._store(vectors)
            finite = np.isfinite(vectors).all(axis=1)
            seen.broken.add(block.start, ~finite)
            seen.too_large.add(block.start, finite & ~np.isfinite(stored).all(axis=1))
            seen.zeros += int((~stored.any(axis=1)).sum())
            seen.ids.add(make_rows(columns, self._columns.id_column, stored, block.start, self._schema)["clip_id"])
            done += len(vectors)
            if observe is not None:
                observe("checking", done, total)
        if seen.broken.count:
            raise UsageError(f"{self._vectors.name}: {seen.broken} not finite (NaN or infinite); mend or drop them")
        if seen.too_large.count:
            what = "mend or drop them" if self._stored == np.float32 else "give --store float32"
            raise UsageError(f"{self._vectors.name}: {seen.too_large} beyond {self._stored}; {what}")
        if (repeated := seen.ids.find_repeated(lambda: self.ids(blocks))) is not None:
            raise UsageError(
                f"{self._vectors.name}: clip id {repeated!r} occurs twice; name unique ones with --id-column"
            )
        return seen

    def ids(self, blocks: Sequence[Block]) -> Iterator[pa.ChunkedArray]:
        """Read the clip ids of blocks."""
        for rows in self.rows(blocks, self._schema):
            yield rows["clip_id"]

    def _read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any], dict[str, pa.ChunkedArray]]]:
        ranges = [(block.start, block.stop) for block in blocks]
        yield from zip(blocks, self._vectors.read(ranges), self._columns.read(ranges), strict=True)

    def _store(self, vectors: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # told by the survey
            return vectors.astype(self._stored)


def count_rows(blocks: Sequence[Block]) -> int:
    """Rows of all of them."""
    return sum(block.stop - block.start for block in blocks)
