"""Clip ids that occur twice, found without keeping the ids: eight bytes each, whatever their length."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Ids:
    """Hashes of ids that are to be told apart."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.int64]] = []

    def add(self, ids: pa.ChunkedArray) -> None:
        """Take note of some ids."""
        texts = ids.to_pylist()
        self._hashes.append(np.fromiter(map(hash, texts), np.int64, len(texts)))

    def find_repeated(self, again: Callable[[], Iterable[pa.ChunkedArray]]) -> str | None:
        """Find an id that was added twice.

        Args:
            again: gives all ids once more, to tell an id that repeats from two of one hash.
        """
        if not self._hashes:
            return None
        hashes = np.sort(np.concatenate(self._hashes))
        twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not twice:
            return None
        seen: set[str] = set()
        for ids in again():
            for text in ids.to_pylist():
                if hash(text) in twice:
                    if text in seen:
                        return str(text)
                    seen.add(text)
        return None
