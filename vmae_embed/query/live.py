"""The clips that a search may show or match: rows of an index's table that are of clips in the library."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vmae_embed.index import Index


class LiveClips:
    """Looks clips up in an index's table, which may also hold rows of clips that were removed.

    Attributes:
        table: of the index; row i is vector i.
        rows: ascending, those that are of clips in the library.
    """

    def __init__(self, index: Index) -> None:
        self.table = index.clips
        self.rows = index.live
        self._is_live = np.zeros(self.table.num_rows, dtype=np.bool_)
        self._is_live[self.rows] = True

    def find(self, column: str, values: Collection[str]) -> dict[str, NDArray[np.int64]]:
        """Give the ascending rows of each value that is there; one pass over the table for all of them."""
        wanted = [value for value in dict.fromkeys(values) if _is_text(value)]
        if not wanted:
            return {}
        places = pc.index_in(self.table[column], value_set=pa.array(wanted, pa.string()))
        codes = pc.fill_null(places, -1).to_numpy()
        rows = self._live_among(np.flatnonzero(codes >= 0))
        order = np.argsort(codes[rows], kind="stable")
        found, starts = np.unique(codes[rows][order], return_index=True)
        return {wanted[code]: part for code, part in zip(found, np.split(rows[order], starts[1:]), strict=False)}

    def of_file(self, path: str) -> NDArray[np.int64]:
        """Ascending rows of a file's clips, by whatever path it was extracted: links lead to it, too."""
        real = os.path.realpath(path)
        names = {os.path.basename(path), os.path.basename(real)}
        same = []
        for name in names:
            if _is_text(name):
                alike = self._paths.filter(pc.ends_with(self._paths, pattern=name)).to_pylist()
                same += [known for known in alike if os.path.basename(known) == name and _same_file(known, real)]
        rows = self.find("path", same)
        return np.sort(np.concatenate([np.empty(0, np.int64), *rows.values()]))

    def take(self, rows: NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of the table, in the order given. Of a table in many pieces that is slow: ask for many at once."""
        table = self.table if columns is None else self.table.select(list(columns))
        return table.take(pa.array(rows)).combine_chunks()

    @cached_property
    def example(self) -> str:
        """A clip's id, to show what they look like."""
        return str(self.table["clip_id"][int(self.rows[0])]) if len(self.rows) else "none: it holds no clips"

    @cached_property
    def _paths(self) -> pa.Array:
        return self.table["path"].unique().drop_null()

    def _live_among(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[self._is_live[rows]]


def _same_file(path: str, real: str) -> bool:
    return os.path.realpath(path) == real


def _is_text(value: str) -> bool:
    """Whether Arrow can hold it: a file's name may be no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
