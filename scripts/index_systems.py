"""One index at a time, in a process of its own: built and stored, or loaded, tuned and measured; for bench_index.py.

    python scripts/index_systems.py TASK.json RESULT.json

Needs no package but the one that is measured, and NumPy. A line on stderr and status 3 say that it is not installed.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Knob = dict[str, int]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

NOT_INSTALLED = 3
AT = 10
_BLOCK = 16384
_SINGLES, _SINGLE_SECONDS, _BATCH_SECONDS = 500, 15.0, 2.0
# Steps of a quarter to a half, so that no system is held far above the recall that is asked for.
STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048)


def blocks(base: Path) -> Iterator[Vectors]:
    """Vectors read block by block: a memory map's pages would count for the process that reads them."""
    shape, start = shape_of(base)
    for first in range(0, shape[0], _BLOCK):
        count = min(_BLOCK, shape[0] - first)
        flat = np.fromfile(base, np.float32, count * shape[1], offset=start + 4 * first * shape[1])
        yield flat.reshape(count, shape[1])


def shape_of(base: Path) -> tuple[tuple[int, int], int]:
    """Shape of a ``.npy`` file, and where its numbers start."""
    mapped = np.load(base, mmap_mode="r")
    return mapped.shape, int(mapped.offset)


def memory() -> dict[str, int]:
    """Bytes of this process: resident and its own, resident and of files, and the most there ever was of both."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {"own": 1024 * kib["RssAnon"], "file": 1024 * kib["RssFile"], "peak": 1024 * kib["VmHWM"]}


class System:
    """An index: ``build`` stores it in a folder, ``load`` reads it, ``search`` returns rows."""

    package = ""
    modules: tuple[str, ...] = ()

    def __init__(self, task: dict[str, Any]) -> None:
        self.folder, self.base = Path(task["folder"]), Path(task["base"])
        self.threads, self.targets = int(task["threads"]), [float(target) for target in task["targets"]]
        (self.count, self.width), _ = shape_of(self.base)
        self.what = ""

    def build(self) -> None:
        raise NotImplementedError

    def load(self) -> None:
        raise NotImplementedError

    def knobs(self) -> list[Knob]:
        raise NotImplementedError

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        raise NotImplementedError

    def tuned(self) -> dict[str, Knob] | None:
        """What the system chose itself, for each target; None if it does not."""
        return None


class Flat(System):
    """FAISS, every vector in float32."""

    package = "faiss-cpu"
    modules = ("faiss",)
    factory = "Flat"

    def build(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        index = faiss.index_factory(self.width, self.factory, faiss.METRIC_INNER_PRODUCT)
        for block in blocks(self.base):
            index.add(block)
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def load(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.read_index(str(self.folder / "index.faiss"))
        self.what = self.factory

    def knobs(self) -> list[Knob]:
        return [{}]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        return self.index.search(queries, AT)[1]


class AutoFaiss(Flat):
    """What autofaiss chooses: its 2.17 pins numpy < 2, so FAISS builds its factory string.

    `get_optimal_index_keys_v2` (criteo/autofaiss, autofaiss/external/optimize.py): with the default
    ``max_index_memory_usage`` of 16 GB, from 10,000 vectors on, "HNSW{M}", M the least of 32 and
    (bytes / 4N - D) / 2, wherever that is at least 8; below 10,000 "HNSW15". It tunes efSearch (16 to 2^14) to 10 ms a
    query and not to a recall; here efSearch is the least that reaches the recall, which is faster.
    """

    @property
    def factory(self) -> str:
        links = min(int((16e9 / (4 * self.count) - self.width) / 2), 32)
        return f"HNSW{links if self.count >= 10_000 else 15}"

    def knobs(self) -> list[Knob]:
        return [{"efSearch": step} for step in STEPS if step >= 16]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        self.index.hnsw.efSearch = knob["efSearch"]
        return self.index.search(queries, AT)[1]


class AutoFaissSmall(AutoFaiss):
    """What autofaiss chooses for as much memory as our codes take, 200 bytes a vector: codes without re-ranking.

    `get_optimal_quantization`: the largest PQ{m}x8 of 256, 128, 64 .. that, with 8 bytes of id, fits; OPQ to
    (min(D // m, 6) + 1) m numbers; cells as `get_optimal_nb_clusters` says; efSearch twice nprobe, ht 2048.
    """

    @property
    def factory(self) -> str:
        parts = next(m for m in (128, 64, 48, 32, 24, 16, 8, 4) if m < self.width)
        cells = 2 ** round(np.log2(4 * self.count**0.5)) if self.count < 1_000_000 else 16_384
        graph = "_HNSW32" if cells >= 1000 else ""
        return f"OPQ{parts}_{(min(self.width // parts, 6) + 1) * parts},IVF{cells}{graph},PQ{parts}x8"

    def build(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        index = faiss.index_factory(self.width, self.factory, faiss.METRIC_INNER_PRODUCT)
        # 100 training vectors a cell (`get_optimal_train_size`).
        share = min(1.0, 100 * faiss.extract_index_ivf(index).nlist / self.count)
        rng = np.random.default_rng(0)
        index.train(np.concatenate([block[rng.random(len(block)) < share] for block in blocks(self.base)]))
        for block in blocks(self.base):
            index.add(block)
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def knobs(self) -> list[Knob]:
        return [{"nprobe": step} for step in STEPS]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        import faiss

        nprobe = knob["nprobe"]
        graph = f",quantizer_efSearch={2 * nprobe}" if "_HNSW" in self.factory else ""
        faiss.ParameterSpace().set_index_parameters(self.index, f"nprobe={nprobe},ht=2048{graph}")
        return self.index.search(queries, AT)[1]


class Hnswlib(System):
    """M and ef_construction as its own documentation has them."""

    package = "hnswlib"
    modules = ("hnswlib",)

    def _empty(self) -> Any:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=self.width)
        index.set_num_threads(self.threads)
        return index

    def build(self) -> None:
        index = self._empty()
        index.init_index(self.count, M=16, ef_construction=200, random_seed=100)
        for block in blocks(self.base):
            index.add_items(block)
        index.save_index(str(self.folder / "index.bin"))

    def load(self) -> None:
        self.index = self._empty()
        self.index.load_index(str(self.folder / "index.bin"))
        self.index.set_num_threads(self.threads)
        self.what = "M 16, ef_construction 200"

    def knobs(self) -> list[Knob]:
        return [{"ef": step} for step in STEPS if step >= AT]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        self.index.set_ef(knob["ef"])
        return self.index.knn_query(queries, AT)[0].astype(np.int64)


class Usearch(System):
    """Connectivity and expansion at their defaults; numbers stored in float16."""

    package = "usearch"
    modules = ("usearch.index",)
    stored = "f16"

    def build(self) -> None:
        from usearch.index import Index

        index = Index(ndim=self.width, metric="ip", dtype=self.stored)
        for number, block in enumerate(blocks(self.base)):
            index.add(np.arange(len(block)) + number * _BLOCK, block, threads=self.threads)
        index.save(str(self.folder / "index.usearch"))

    def load(self) -> None:
        from usearch.index import Index

        self.index = Index.restore(str(self.folder / "index.usearch"))
        self.what = f"connectivity {self.index.connectivity}, {self.stored}"

    def knobs(self) -> list[Knob]:
        return [{"expansion": step} for step in STEPS if step >= AT]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        self.index.expansion_search = knob["expansion"]
        return np.atleast_2d(self.index.search(queries, AT, threads=self.threads).keys).astype(np.int64)


class Scann(System):
    """Leaves and codes as its documentation advises (docs/algorithms.md): about sqrt(N) leaves, 2 numbers a code."""

    package = "scann"
    modules = ("scann",)

    def build(self) -> None:
        import scann

        vectors = np.fromfile(self.base, np.float32, offset=shape_of(self.base)[1]).reshape(self.count, self.width)
        leaves = 2 * int(self.count**0.5)
        builder = scann.scann_ops_pybind.builder(vectors, AT, "dot_product").set_n_training_threads(self.threads)
        builder = builder.tree(leaves, leaves // 20, training_sample_size=min(self.count, 250_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        (self.folder / "scann").mkdir()
        builder.build().serialize(str(self.folder / "scann"))

    def load(self) -> None:
        import scann

        self.index = scann.scann_ops_pybind.load_searcher(str(self.folder / "scann"))
        self.index.set_num_threads(self.threads)
        self.leaves = 2 * int(self.count**0.5)
        self.what = f"{self.leaves} leaves, AH2, reorder"

    def knobs(self) -> list[Knob]:
        leaves = [step for step in STEPS if step < self.leaves]
        return [
            {"leaves": few, "reorder": more} for few, more in itertools.product(leaves, (20, 40, 80, 160, 320, 640))
        ]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        several = {"pre_reorder_num_neighbors": knob["reorder"], "leaves_to_search": knob["leaves"]}
        if len(queries) == 1:
            return self.index.search(queries[0], AT, **several)[0][None].astype(np.int64)
        return self.index.search_batched_parallel(queries, AT, **several)[0].astype(np.int64)


class Lance(System):
    """LanceDB: IVF_PQ as it makes it when not told more."""

    package = "lancedb"
    modules = ("lancedb", "pyarrow")

    def build(self) -> None:
        import lancedb
        import pyarrow as pa

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.width))])

        def batches() -> Iterator[Any]:
            for number, block in enumerate(blocks(self.base)):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), self.width)
                yield pa.record_batch([pa.array(np.arange(len(block)) + number * _BLOCK), vectors], schema=schema)

        table = lancedb.connect(self.folder / "lance").create_table("clips", batches(), schema=schema)
        table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_PQ")

    def load(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder / "lance").open_table("clips")
        self.what = "IVF_PQ, its defaults"

    def knobs(self) -> list[Knob]:
        probes, refined = (4, 8, 16, 32, 64, 128), (2, 5, 10, 20, 50)
        return [{"nprobes": few, "refine": more} for few, more in itertools.product(probes, refined)]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        asked = self.table.search(queries[0] if len(queries) == 1 else list(queries)).distance_type("dot").limit(AT)
        asked = asked.nprobes(knob["nprobes"]).refine_factor(knob["refine"])
        found = asked.select(["id", "_distance"]).to_arrow()
        rows = np.full((len(queries), AT), -1, dtype=np.int64)
        of = np.asarray(found["query_index"]) if len(queries) > 1 else np.zeros(found.num_rows, dtype=np.int64)
        order = np.lexsort((np.asarray(found["_distance"]), of))
        of = of[order]
        rows[of, np.arange(len(of)) - np.searchsorted(of, of)] = np.asarray(found["id"])[order]
        return rows


class Ours(System):
    """By the public interface, over a library whose shards bench_index.py wrote; it tunes itself."""

    package = "faiss-cpu"
    modules = ("faiss", "vmae_embed.index", "vmae_embed.library")

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__(task)
        from vmae_embed.library import Library

        self.library = Library.open(self.folder.parent / "library")

    def build(self) -> None:
        from vmae_embed.index import Index, IndexSpec

        Index.build(self.library, IndexSpec(target_recall=max(self.targets)))

    def tuned(self) -> dict[str, Knob]:
        from vmae_embed.index import Index, IndexSpec

        chosen = {}
        for target in sorted(self.targets):
            Index.update(self.library, IndexSpec(target_recall=target))
            effort = Index.open(self.library).effort
            chosen[f"{target:g}"] = {} if effort is None else vars(effort)
        return chosen

    def load(self) -> None:
        from vmae_embed.index import Index

        self.index = Index.open(self.library)
        self.what = self.index.about["factory"]

    def knobs(self) -> list[Knob]:
        if self.index.effort is None:
            return [{}]
        return [{"nprobe": n, "candidates": c} for n, c in itertools.product(STEPS, (1, 2, 3, 4, 6, 8, 12, 16, 32, 64))]

    def search(self, queries: Vectors, knob: Knob) -> Rows:
        from vmae_embed.index import Effort

        return self.index.search(queries, AT, effort=Effort(**knob) if knob else None)[1]


SYSTEMS: dict[str, type[System]] = {
    "ours": Ours,
    "Flat": Flat,
    "autofaiss": AutoFaiss,
    "autofaiss, 200 B": AutoFaissSmall,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "ScaNN": Scann,
    "LanceDB": Lance,
}


def recall(found: Rows, truth: Rows) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]) / AT)


def tune(system: System, queries: Vectors, truth: Rows) -> dict[str, dict[str, Any]]:
    """For each target the knob that reaches it in the least time, or comes nearest."""
    tried: list[tuple[float, float, Knob]] = []
    most, least = max(system.targets), float("inf")  # seconds in which the highest target is reached
    for _, several in itertools.groupby(system.knobs(), key=lambda knob: next(iter(knob.values()), 0)):
        before, quickest = -1.0, float("inf")
        for knob in several:
            begun = time.perf_counter()
            reached = recall(system.search(queries, knob), truth)
            seconds = time.perf_counter() - begun
            tried.append((reached, seconds, knob))
            quickest = min(quickest, seconds)
            if reached >= most:
                least = min(least, seconds)
            if reached >= most or reached < before + 0.001:
                break
            before = reached
        # With more of the first, all are slower still.
        if quickest > 1.2 * least:
            break
    chosen = {}
    for target in system.targets:
        reaching = [(seconds, reached, knob) for reached, seconds, knob in tried if reached >= target]
        reached, _, knob = max(tried, key=lambda of: of[:2])
        if reaching:
            _, reached, knob = min(reaching, key=lambda of: of[0])
        chosen[f"{target:g}"] = {"knob": knob, "reached": reached}
    return chosen


def measure(system: System, queries: Vectors, truth: Rows, knob: Knob) -> dict[str, float]:
    reached = recall(system.search(queries, knob), truth)
    passes, begun = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - begun < _BATCH_SECONDS:
        system.search(queries, knob)
        passes += 1
    rate = passes * len(queries) / (time.perf_counter() - begun)
    for query in queries[:8]:
        system.search(query[None], knob)
    taken, begun = [], time.perf_counter()
    for query in queries[:_SINGLES]:
        start = time.perf_counter()
        system.search(query[None], knob)
        taken.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - begun > _SINGLE_SECONDS:
            break
    p50, p99 = np.percentile(taken, (50, 99))
    return {"recall": reached, "queries_s": rate, "p50_ms": float(p50), "p99_ms": float(p99)}


def run(task: dict[str, Any]) -> dict[str, Any]:
    system = SYSTEMS[task["system"]](task)
    if task["step"] == "build":
        begun = time.perf_counter()
        system.build()
        return {"build_s": time.perf_counter() - begun, "build_peak": memory()["peak"]}
    tuning, asked = (
        {name: np.load(Path(task["data"]) / f"{kind}_{name}.npy") for name in ("queries", "truth")}
        for kind in ("tuning", "asked")
    )
    for module in system.modules:  # what they take themselves is no part of the index
        import_module(module)
    before = memory()
    system.load()
    system.search(asked["queries"][:32], system.knobs()[0])
    loaded = memory()
    result: dict[str, Any] = {"what": system.what, "version": version(system.package)}
    if task["step"] == "tune":
        return {**result, "knobs": tune(system, tuning["queries"], tuning["truth"]), "own": system.tuned()}
    result["measured"] = {
        name: measure(system, asked["queries"], asked["truth"], knob) for name, knob in task["knobs"].items()
    }
    searched = memory()
    held = {
        "loaded": loaded["own"] - before["own"],
        "own": searched["own"] - before["own"],
        "file": searched["file"] - before["file"],
    }
    return {**result, "bytes_a_vector": {name: size / system.count for name, size in held.items()}}


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(task["threads"])])
    try:
        result = run(task)
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
