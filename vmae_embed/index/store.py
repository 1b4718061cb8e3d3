"""The index of a library, as it is searched."""

from __future__ import annotations

import errno
import math
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, LibraryLocked, SearchIndexError, UsageError
from vmae_embed.index.ann import Effort, search
from vmae_embed.index.backend import import_faiss
from vmae_embed.index.build import Made, bring_up_to_date, build
from vmae_embed.index.generation import (
    ABOUT,
    CLIPS,
    FAISS,
    UNITS,
    VECTORS,
    map_vectors,
    read_about,
    read_arrow,
    writing,
)
from vmae_embed.index.parts import build_part, planned_spec
from vmae_embed.index.rows import Observer, prepare, read_unit, rows_of, units_of
from vmae_embed.index.similarity import exact_search
from vmae_embed.index.spec import IndexSpec
from vmae_embed.library import Library

# Clips that a filter leaves, up to which comparing with each is as fast as asking the index.
_FEW = 20_000
_QUERIES = 256
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
# A reader may come while the state that it was told of is cleared away.
_TRIES = 5


class Index:
    """A searchable library.

    Attributes:
        library: that it indexes.
        clips: row i is of vector i; those of clips that the library does not hold any more are among them.
        live: ascending rows of ``clips`` that are of clips in the library; searches find no others.
        about: what ``index.json`` says: what was asked for, FAISS factory, measured recall and latency.
        spec: what was asked for.
    """

    def __init__(self, library: Library, folder: Path) -> None:
        """Read an index that lies in a folder; use `build` or `open`."""
        self.library = library
        for tried in range(_TRIES):
            try:
                self._read(folder)
                return
            except (OSError, ValueError, KeyError, TypeError, UsageError, RuntimeError, pa.ArrowException) as error:
                if isinstance(error, FileNotFoundError) and tried < _TRIES - 1:
                    continue
                detail = " ".join(str(error).split())[:200]
                raise SearchIndexError(
                    f"{folder}: cannot be read ({detail}); run `vmae-embed index {library.path} --rebuild`"
                ) from error

    def _read(self, folder: Path) -> None:
        self.about = read_about(folder)
        self.spec = IndexSpec.from_dict(self.about["spec"])
        files = folder / str(self.about["folder"])
        self._vectors = map_vectors(files / VECTORS, int(self.about["rows"]))
        self.clips: pa.Table = read_arrow(files / CLIPS)
        self._units = units_of(read_arrow(files / UNITS))
        self.live: NDArray[np.int64] = rows_of(self._units)
        self.effort: Effort | None = None
        self._ann: Any = None
        if self.about["nprobe"] is not None:
            self.effort = Effort(int(self.about["nprobe"]), int(self.about["candidates_a_hit"]))
            try:
                self._ann = import_faiss().read_index(str(files / FAISS))
            except RuntimeError:
                (files / FAISS).stat()  # FileNotFoundError, if it was cleared away
                raise
        held = len(self.live) if self._ann is None else self._ann.ntotal
        if not (self.clips.num_rows == len(self._vectors) and held == len(self.live) == self.about["clips"]):
            raise ValueError("its files hold different numbers of clips")

    @classmethod
    def build(
        cls,
        library: Library,
        spec: IndexSpec | None = None,
        *,
        folder: Path | None = None,
        gpu: bool = False,
        observe: Observer | None = None,
    ) -> Index:
        """Build the index of a library anew.

        Args:
            library: to index.
            spec: what is asked of it; None for the defaults.
            folder: where it is stored; None is the library's own place.
            gpu: cluster and measure on a GPU.
            observe: is told what is being done, how much of it is done, and how much there is.

        Raises:
            SearchIndexError: the library holds no clips, or FAISS is not installed.
            UsageError: what is asked for cannot be had with these clips.
            LibraryError: another process is indexing, a shard cannot be read, or the folder cannot be written to.
        """
        place = folder or library.index_path
        if folder is not None and any(folder.glob("[!.]*")) and not (folder / ABOUT).exists():
            raise UsageError(f"{folder}: holds something else than an index; give an empty folder")
        with writing(place):
            build(library, place, spec or IndexSpec(), gpu=gpu, observe=observe)
        return cls(library, place)

    @classmethod
    def update(
        cls,
        library: Library,
        spec: IndexSpec | None = None,
        *,
        rebuild: bool = False,
        gpu: bool = False,
        observe: Observer | None = None,
    ) -> Made:
        """Make a library's index follow its clips; train it anew only where it has to be.

        Args:
            library: whose index it is.
            spec: what is asked of it now; None keeps what was asked, where that can still be had.
            rebuild: build it anew though it could follow.
            gpu: cluster and measure on a GPU.
            observe: is told what is being done, how much of it is done, and how much there is.

        Raises:
            SearchIndexError, UsageError, LibraryError: as `build` does.
        """
        place = library.index_path
        make = build if rebuild else bring_up_to_date
        with writing(place):
            asked = spec or cls.last_spec(library)
            try:
                return make(library, place, asked, gpu=gpu, observe=observe)
            except UsageError:
                if spec is not None:
                    raise
                # Fewer clips than what was asked for once needs; what it may take still holds.
                possible = replace(asked, factory="auto", nlist=None, train_size=None)
                why = "the clips are too few for what was asked for"
                return build(library, place, possible, why=why, gpu=gpu, observe=observe)

    @classmethod
    def build_part(
        cls,
        library: Library,
        number: int,
        of: int,
        spec: IndexSpec | None = None,
        *,
        gpu: bool = False,
        observe: Observer | None = None,
    ) -> Made | None:
        """Build one part of a library's index, on one of several machines; the last to finish merges them.

        Args:
            library: to index.
            number: of this part, from 1.
            of: how many there are.
            spec: what is asked of the index, the same for all parts; None for what other parts or the
                present index were asked for.
            gpu: cluster and measure on a GPU.
            observe: is told what is being done, how much of it is done, and how much there is.

        Returns:
            What the merge made; None while other parts are missing.

        Raises:
            UsageError: no such part, parts of another plan are there, or the clips are too few for parts.
            SearchIndexError, LibraryError: as `build` does.
        """
        asked = spec or planned_spec(library.index_path) or cls.last_spec(library)
        return build_part(library, library.index_path, asked, number, of, gpu=gpu, observe=observe)

    @classmethod
    def open(cls, library: Library, *, observe: Observer | None = None) -> Index:
        """Read a library's index, first bringing it up to date where the shards have changed.

        Where another process is indexing, or the library cannot be written to, the index as it is answers;
        if there is none, one is made elsewhere for now.

        Args:
            library: whose index it is.
            observe: is told what is being done, how much of it is done, and how much there is.

        Raises:
            SearchIndexError: the library holds no clips, or FAISS is not installed.
            LibraryError: a shard cannot be read.
        """
        if not cls.is_current(library):
            try:
                cls.update(library, observe=observe)
            except LibraryError as error:
                if not isinstance(error, LibraryLocked) and getattr(error.__cause__, "errno", None) not in _UNWRITABLE:
                    raise
                if not cls.exists(library):
                    # The files live on while they are mapped.
                    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
                        return cls.build(library, folder=Path(folder), observe=observe)
        return cls(library, library.index_path)

    @staticmethod
    def exists(library: Library) -> bool:
        """Whether an index of this version's format is stored."""
        try:
            return bool(read_about(library.index_path)["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def last_spec(library: Library) -> IndexSpec:
        """What the user last asked for; the defaults where there is no index."""
        try:
            return IndexSpec.from_dict(read_about(library.index_path)["spec"])
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            return IndexSpec()

    @staticmethod
    def is_current(library: Library) -> bool:
        """Whether the stored index is of the library's present clips."""
        try:
            return bool(read_about(library.index_path)["state"] == library.state())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def metric(self) -> str:
        """What scores are: ``cosine``, ``ip``, or ``l2``, whose scores are minus the distance."""
        return self.spec.metric

    @property
    def ann(self) -> Any:
        """The index of FAISS, whose ids are rows of ``clips``; None where every search is exact."""
        return self._ann

    def __len__(self) -> int:
        return len(self.live)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(B, D)`` float32 for rows of ``clips``; of unit length under cosine."""
        return np.ascontiguousarray(self._vectors[rows], dtype=np.float32)

    @cached_property
    def _everything(self) -> NDArray[np.int64] | None:
        return None if len(self.live) == len(self._vectors) else self.live

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int,
        *,
        exact: bool = False,
        among: NDArray[np.int64] | None = None,
        effort: Effort | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the clips nearest to each query.

        Args:
            queries: ``(Q, D)``.
            k: neighbours; all clips if there are fewer.
            exact: compare with every clip, whatever the index.
            among: ascending rows of ``clips`` that may be found, live ones; None for all.
            effort: how much to look at; None for what was tuned.

        Returns:
            Scores ``(Q, K)`` float32, of the stored vectors, and rows of ``clips`` ``(Q, K)`` int64, best first.

        Raises:
            UsageError: the queries are not finite or of another width, or k is less than 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self._vectors.shape[1]:
            raise UsageError(f"queries of shape {queries.shape}; this library takes (Q, {self._vectors.shape[1]})")
        if not (np.abs(queries) <= np.finfo(np.float32).max).all():
            raise UsageError("queries hold numbers that are not finite")
        if k < 1:
            raise UsageError(f"k={k}: give at least 1")
        k = min(k, len(self) if among is None else len(among))
        effort = effort or _widened(self.effort, k, self.spec.at)
        if exact or self._ann is None or effort is None or (among is not None and len(among) <= _FEW):
            return exact_search(self._vectors, queries, k, self.metric, self._everything if among is None else among)
        if among is not None:
            # A filter thins the cells out: as many of its clips are to be seen as without it.
            share = len(among) / len(self)
            effort = Effort(math.ceil(effort.nprobe / share), effort.candidates)
        scores = np.empty((len(queries), k), dtype=np.float32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), _QUERIES):
            few = slice(start, start + _QUERIES)
            scores[few], rows[few] = search(
                self._ann, self._vectors, queries[few], k, self.metric, effort, self.spec.at, among
            )
        # The visited cells may hold fewer than were asked for; those queries deserve better.
        short = (rows < 0).any(axis=1)
        if short.any():
            everything = self._everything if among is None else among
            scores[short], rows[short] = exact_search(self._vectors, queries[short], k, self.metric, everything)
        return scores, rows

    def verify(self) -> list[str]:
        """Check the index against its library; one line for each thing that is wrong."""
        if self.about["state"] != self.library.state():
            return ["index: behind the shards; run `vmae-embed index` to bring it up to date"]
        problems = []
        for unit in self._units:
            rows = slice(unit.first, unit.first + unit.rows)
            matrix, clips = read_unit(self.library, unit.unit)
            if clips is None or clips["clip_id"].to_pylist() != self.clips["clip_id"][rows].to_pylist():
                problems.append(f"index: rows {rows.start} to {rows.stop} are other clips than the shard's")
            elif not np.array_equal(prepare(matrix, self.metric).astype(self._vectors.dtype), self._vectors[rows]):
                problems.append(f"index: rows {rows.start} to {rows.stop} hold other vectors than the shard")
        return problems


def _widened(effort: Effort | None, k: int, at: int) -> Effort | None:
    """The effort for more hits than it was tuned for: they lie in more cells."""
    if effort is None or k <= at:
        return effort
    return Effort(math.ceil(effort.nprobe * (k / at) ** 0.5), effort.candidates)
