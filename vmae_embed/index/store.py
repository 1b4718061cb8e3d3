"""The index of a library: built from its shards, kept beside them, searched."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import LibraryError, SearchIndexError, UsageError
from vmae_embed.index.build import KINDS, Built, build_index, exact_search, import_faiss, ivfpq_search, normalise
from vmae_embed.library import Library, to_matrix

FORMAT = 1

_VECTORS, _CLIPS, _FAISS, _ABOUT = "vectors.npy", "clips.arrow", "index.faiss", "index.json"
# What a hit tells of a clip; read as they are, without the embeddings.
_CLIP_COLUMNS = ("clip_id", "video_id", "start_s", "end_s", "path", "fingerprint")


class Index:
    """A searchable library.

    Attributes:
        library: that it indexes.
        clips: a row for each vector: ids, spans, paths, carried columns.
        about: what ``index.json`` says: kind, FAISS factory, nprobe, measured recall, state of the library.
    """

    def __init__(self, library: Library, folder: Path) -> None:
        """Read an index that lies in a folder; use `build` or `open`."""
        self.library = library
        try:
            self.about = _read_about(folder)
            self._vectors: NDArray[Any] = np.load(folder / _VECTORS, mmap_mode="r")
            with pa.memory_map(str(folder / _CLIPS)) as source:
                self.clips: pa.Table = pa.ipc.open_file(source).read_all()
            # An exact search reads the vectors alone.
            self._index: Any = None
            if self.about["nprobe"] is not None:
                self._index = import_faiss().read_index(str(folder / _FAISS))
            if _read_about(folder) != self.about:
                raise ValueError("it was rebuilt while it was read; try again")
            if not self.clips.num_rows == len(self._vectors) == self.about["vectors"]:
                raise ValueError("its files hold different numbers of clips")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pa.ArrowException) as error:
            detail = " ".join(str(error).split())[:200]
            raise SearchIndexError(
                f"{folder}: cannot be read ({detail}); run `vmae-embed index {library.path} --rebuild`"
            ) from error

    @classmethod
    def build(cls, library: Library, *, kind: str = "auto", nlist: int | None = None) -> Index:
        """Build the index of a library and store it there.

        Args:
            library: to index.
            kind: ``auto`` (IVF-PQ where there are enough clips to train it), ``exact`` or ``ivfpq``.
            nlist: cells of an IVF-PQ; None chooses.

        Raises:
            SearchIndexError: the library holds no clips, or FAISS is not installed.
            UsageError: no such kind, or more cells than the clips can train.
            LibraryError: another run is writing to the library, or it cannot be written to.
        """
        with library.lock():
            _build_into(library.index_path, library, kind, nlist)
        return cls(library, library.index_path)

    @classmethod
    def open(cls, library: Library) -> Index:
        """Read a library's index, first bringing it up to date where the shards have changed.

        Where the library is being written to or cannot be, the index is made elsewhere for now.

        Raises:
            SearchIndexError: the library holds no clips, or FAISS is not installed.
        """
        if cls.is_current(library):
            return cls(library, library.index_path)
        try:
            return cls.build(library, **_last_choice(library))
        except UsageError:
            return cls.build(library)  # fewer clips than the last choice needs
        except LibraryError:
            with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
                _build_into(Path(folder), library, "auto", None)
                return cls(library, Path(folder))  # the files live on while they are mapped

    @staticmethod
    def is_current(library: Library) -> bool:
        """Whether the stored index is of the library's present clips."""
        try:
            return bool(_read_about(library.index_path)["state"] == library.state())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def metric(self) -> str:
        """Of its scores."""
        return "cosine"

    def __len__(self) -> int:
        return len(self._vectors)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(B, D)`` float32 of unit length, for rows of ``clips``."""
        return np.ascontiguousarray(self._vectors[rows], dtype=np.float32)

    @property
    def live(self) -> NDArray[np.int64]:
        """Ascending rows of ``clips`` that are of clips in the library; searches find no others."""
        return np.arange(len(self._vectors))

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int,
        *,
        exact: bool = False,
        among: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the clips nearest to each query by cosine similarity.

        Args:
            queries: ``(Q, D)``.
            k: neighbours; all clips if there are fewer.
            exact: compare with every clip, whatever the index.
            among: ascending rows of ``clips`` that may be found; None for all.

        Returns:
            Scores ``(Q, K)`` float32 and rows of ``clips`` ``(Q, K)`` int64, best first.

        Raises:
            UsageError: the queries are not finite or of another width, or k is less than 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self._vectors.shape[1]:
            raise UsageError(f"queries of shape {queries.shape}; this library takes (Q, {self._vectors.shape[1]})")
        if not np.isfinite(queries).all():
            raise UsageError("queries hold numbers that are not finite")
        if k < 1:
            raise UsageError(f"k={k}: give at least 1")
        k = min(k, len(self) if among is None else len(among))
        if among is not None:
            scores, rows = exact_search(self._vectors[among], queries, k)
            return scores, among[rows]
        if exact or self.about["nprobe"] is None:
            return exact_search(self._vectors, queries, k)
        about = self.about
        scores, rows = ivfpq_search(
            import_faiss(), self._index, self._vectors, queries, k, about["nprobe"], about["candidates_a_hit"]
        )
        # The visited cells may hold fewer than were asked for; those queries deserve better.
        short = (rows < 0).any(axis=1)
        if short.any():
            scores[short], rows[short] = exact_search(self._vectors, queries[short], k)
        return scores, rows

    def verify(self) -> list[str]:
        """Check the index against its library; one line for each thing that is wrong."""
        problems = []
        if not self.is_current(self.library):
            problems.append("index: behind the shards; run `vmae-embed index` to bring it up to date")
            return problems
        try:
            held = import_faiss().read_index(str(self.library.index_path / _FAISS)).ntotal
        except RuntimeError:
            held = "an unreadable number of"
        if held != len(self):
            problems.append(f"index: FAISS holds {held} vectors, the shards {len(self)}")
        row = 0
        for shard in self.library.shards(["clip_id", "embedding"]):
            ids = shard["clip_id"].to_pylist()
            if ids != self.clips["clip_id"][row : row + len(ids)].to_pylist():
                problems.append(f"index: rows {row} to {row + len(ids)} are other clips than the shard's")
            expected = normalise(to_matrix(shard["embedding"], self.library.width)).astype(self._vectors.dtype)
            if not np.array_equal(expected, self._vectors[row : row + len(ids)]):
                problems.append(f"index: rows {row} to {row + len(ids)} hold other vectors than the shard")
            row += len(ids)
        return problems


def _build_into(folder: Path, library: Library, kind: str, nlist: int | None) -> None:
    if kind not in KINDS:
        raise UsageError(f"factory={kind!r}: choose one of {', '.join(KINDS)}")
    units = library.units()  # those of now, whatever an extraction adds meanwhile
    state, count = library.state(units), library.count(units)
    if not count:
        raise SearchIndexError(
            f"{library.path}: holds no clips to index; `vmae-embed failures {library.path}` says why"
        )
    try:
        folder.mkdir(exist_ok=True)
        # Without index.json there is no index: a kill from here on leaves none, not a mixed one.
        (folder / _ABOUT).unlink(missing_ok=True)
        vectors = _write_rows(folder, library, units, count)
        built = build_index(vectors, kind, nlist)
        _write_faiss(folder, built)
        about = {
            "format": FORMAT,
            "state": state,
            "kind": kind,
            "nlist": nlist,
            "factory": built.factory,
            "vectors": count,
            "nprobe": built.nprobe,
            "candidates_a_hit": built.candidates_a_hit,
            "recall_at_10": built.recall,
        }
        with _replacing(folder / _ABOUT) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LibraryError(f"{folder}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file a name only when it is whole; whoever has the old one open keeps that."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def _write_rows(folder: Path, library: Library, units: list[str], count: int) -> NDArray[Any]:
    """Write vectors and clips, shard by shard, in the order of FAISS's ids."""
    stored = np.dtype(library.config.stored)
    carried = list(library.config.columns)
    schema = pa.schema([library.schema.field(name) for name in [*_CLIP_COLUMNS, *carried]])
    row = 0
    with _replacing(folder / _VECTORS) as vectors_file, _replacing(folder / _CLIPS) as clips_file:
        vectors = np.lib.format.open_memmap(vectors_file, "w+", dtype=stored, shape=(count, library.width))
        with pa.OSFile(str(clips_file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for shard in library.shards([*schema.names, "embedding"], units):
                matrix = normalise(to_matrix(shard["embedding"], library.width))
                vectors[row : row + len(matrix)] = matrix
                row += len(matrix)
                rows = pa.concat_tables(
                    [schema.empty_table(), shard.drop_columns("embedding")], promote_options="default"
                )
                writer.write_table(rows.select(schema.names))
        vectors.flush()
    return vectors


def _write_faiss(folder: Path, built: Built) -> None:
    try:
        with _replacing(folder / _FAISS) as temporary:
            import_faiss().write_index(built.index, str(temporary))
    except RuntimeError as error:
        raise OSError(f"FAISS: {error}") from error


def _read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']}; this version reads format {FORMAT}")
    return about


def _last_choice(library: Library) -> dict[str, Any]:
    """What the user last asked for, which bringing up to date keeps where it still can be had."""
    try:
        about = _read_about(library.index_path)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    kind, nlist = about.get("kind"), about.get("nlist")
    return {"kind": kind, "nlist": nlist} if kind in KINDS and (nlist is None or isinstance(nlist, int)) else {}
