"""Our index against FAISS Flat, autofaiss's choice, hnswlib, usearch, ScaNN and LanceDB, at equal recall.

Every system gets the same unit vectors and inner products, builds in a process of its own, is tuned on one set of
queries to the least effort that reaches each recall@10, and is measured on another; neither is in the index, and the
truth is exact (float64). Measuring goes round by round over all systems, each time in a fresh process; figures are
medians of the rounds. "ours" tunes itself on its own vectors, as a user has it; "ours, tuned alike" is the
same index, tuned as the peers are. Batches use all threads; single queries come one at a time. Vectors that are
mapped from a file count apart: they are read for candidates only, and are warm here.

    python scripts/bench_index.py --cache DIR [--count 100000] [--shape clustered] [--targets 0.95,0.99] [--rounds 3]
        [--peers ours,Flat,hnswlib] [--peer-python ScaNN=/tmp/scann/bin/python]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from index_systems import AT, NOT_INSTALLED, SYSTEMS, blocks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling

LATENT, BLOCK, CLIPS_A_VIDEO, QUERIES, TUNING_QUERIES = 24, 16384, 8, 1000, 500
BASE, TUNING, ASKED, VIDEOS = range(4)  # streams of random numbers
OURS, ALIKE = "ours", "ours, tuned alike"
SLOW = "autofaiss, 200 B"  # minutes of training even for 10,000 vectors: only where --peers names it


class Shape:
    """Unit vectors of one shape, the same for a seed whatever the count: stream and block seed their own numbers."""

    def __init__(self, shape: str, count: int, width: int, seed: int) -> None:
        self.shape, self.count, self.width, self.seed = shape, count, width, seed
        rng = np.random.default_rng(seed)
        self.lift = rng.normal(size=(LATENT, width)) / LATENT**0.5
        self.mean = 3 * rng.normal(size=width)
        self.centres = rng.normal(size=(1000, width))
        self.weights = rng.dirichlet(np.ones(1000))

    def block(self, stream: int, number: int, rows: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1 + stream, number])
        latent, noise = rng.normal(size=(rows, LATENT)), rng.normal(size=(rows, self.width))
        if self.shape == "clustered":  # a thousand of uneven size, each 24 dimensions wide
            vectors = self.centres[rng.choice(1000, rows, p=self.weights)] + 0.5 * latent @ self.lift + 0.1 * noise
        elif self.shape == "manifold":  # 24 curved dimensions without clusters
            vectors = np.tanh(latent @ self.lift) + 0.02 * noise
        else:  # videos of 8 near-duplicates, all around a strong mean
            first = number * BLOCK if stream == BASE else 0
            within = np.arange(first, first + rows) if stream == BASE else rng.integers(0, self.count, rows)
            vectors = self.mean + self.video_centres(within // CLIPS_A_VIDEO) @ self.lift
            vectors += 0.1 * (latent @ self.lift) + 0.05 * noise
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def video_centres(self, videos: np.ndarray) -> np.ndarray:
        centres = np.empty((len(videos), LATENT))
        for number in np.unique(videos // BLOCK):
            few = videos // BLOCK == number
            rng = np.random.default_rng([self.seed, 1 + VIDEOS, int(number)])
            centres[few] = rng.normal(size=(BLOCK, LATENT))[videos[few] % BLOCK]
        return centres


def write_data(folder: Path, shape: Shape) -> None:
    """Vectors, both sets of queries and their truth, and the library that ours reads."""
    folder.mkdir(parents=True)
    base = np.lib.format.open_memmap(folder / "base.npy", "w+", np.float32, (shape.count, shape.width))
    for number, first in enumerate(range(0, shape.count, BLOCK)):
        base[first : first + BLOCK] = shape.block(BASE, number, min(BLOCK, shape.count - first))
    base.flush()
    del base
    write_library(folder / "library", folder / "base.npy", shape.width)
    for name, stream, count in (("tuning", TUNING, TUNING_QUERIES), ("asked", ASKED, QUERIES)):
        queries = shape.block(stream, 0, count)
        np.save(folder / f"{name}_queries.npy", queries)
        np.save(folder / f"{name}_truth.npy", nearest(folder / "base.npy", queries))


def nearest(base: Path, queries: np.ndarray) -> np.ndarray:
    """Rows of the nearest, ``(Q, 10)``, by inner products in float64."""
    scores, rows = np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)
    for number, block in enumerate(blocks(base)):
        new = queries.astype(np.float64) @ block.T.astype(np.float64)
        near = (
            np.argpartition(-new, AT, axis=1)[:, :AT]
            if len(block) > AT
            else np.arange(len(block))[None].repeat(len(queries), 0)
        )
        scores = np.hstack([scores, np.take_along_axis(new, near, 1)])
        rows = np.hstack([rows, near + number * BLOCK])
        best = np.argsort(-scores, axis=1)[:, :AT]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def write_library(folder: Path, base: Path, width: int) -> None:
    """Shards whose i-th clip has the i-th vector."""
    encoder = {"checkpoint": "made-up", "revision": None, "weights_sha256": "0" * 64, "pooling": "mean"}
    encoder |= {"norm": "layernorm of the tokens", "frames": 16, "width": width, "precision": "float32"}
    preprocessing = Preprocessing(224, None, (224, 224), 2, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    library = Library.create(folder, LibraryConfig(encoder, Sampling(), preprocessing, "float32", {}, {}))
    spans = [ClipSpan(2.0 * i, 2.0 * i + 2, ()) for i in range(CLIPS_A_VIDEO)]
    timeline = Timeline(np.zeros(1), 2.0 * CLIPS_A_VIDEO, 30, 640, 480, "h264")
    import pyarrow as pa

    for number, block in enumerate(blocks(base)):
        tables = []
        for first in range(0, len(block), CLIPS_A_VIDEO):
            clips = block[first : first + CLIPS_A_VIDEO]
            name = f"v{(number * BLOCK + first) // CLIPS_A_VIDEO:07}.mp4"
            video = Video(name, f"/videos/{name}", 1, 1)
            tables.append(clip_rows(video, timeline, spans[: len(clips)], clips, library.schema))
        library.write_unit(f"{number:016x}", pa.concat_tables(tables), [])


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.targets = [float(target) for target in arguments.targets.split(",")]
        self.threads = arguments.threads
        self.pythons = dict(pair.split("=", 1) for pair in arguments.peer_python)
        self.data = arguments.cache / f"{arguments.shape}-{arguments.count}-{arguments.width}-{arguments.seed}"
        if not (self.data / "asked_truth.npy").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            write_data(self.data, Shape(arguments.shape, arguments.count, arguments.width, arguments.seed))

    def run(self, system: str, step: str, **more: Any) -> dict[str, Any] | None:
        """Let a fresh process do one step; None if it cannot."""
        folder = self.data / system.replace(", ", "-").replace(" ", "")
        if step == "build":
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        task = {"system": system, "step": step, "folder": str(folder), "base": str(self.data / "base.npy")}
        task |= {"data": str(self.data), "threads": self.threads, "targets": self.targets, **more}
        given, result = self.data / "task.json", self.data / "result.json"
        given.write_text(json.dumps(task), encoding="utf-8")
        result.unlink(missing_ok=True)
        limits = ("OMP", "OPENBLAS", "MKL", "RAYON", "LANCE_CPU")
        done = subprocess.run(
            [
                self.pythons.get(system, sys.executable),
                str(Path(__file__).with_name("index_systems.py")),
                str(given),
                str(result),
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                **{f"{name}_NUM_THREADS": str(self.threads) for name in limits},
                "LANCE_CPU_THREADS": str(self.threads),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            left_out = "not installed" if done.returncode == NOT_INSTALLED else f"{step} failed"
            print(f"{system}: left out, {left_out} ({why})", flush=True)
            return None
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if step == "build":
            kept = [folder] if system != OURS else [self.data / "library" / "index"]
            found["disk"] = sum(path.stat().st_size for where in kept for path in where.rglob("*") if path.is_file())
        return found

    def build_and_tune(self, system: str) -> dict[str, Any] | None:
        built = self.run(system, "build")
        tuned = self.run(system, "tune") if built else None
        if built is None or tuned is None:
            return None
        print(
            f"{system}: built in {built['build_s']:.0f} s, tuned: {tuned['own'] or ''} {tuned['knobs']}",
            file=sys.stderr,
        )
        knobs = {target: of["knob"] for target, of in tuned["knobs"].items()}
        if tuned["own"] is not None:
            knobs = {**tuned["own"], **{f"{target} {ALIKE}": knob for target, knob in knobs.items()}}
        return {**built, **tuned, "knobs": knobs}


def table_rows(
    systems: dict[str, dict[str, Any]], rounds: dict[str, list[dict[str, Any]]], count: int
) -> list[dict[str, Any]]:
    found = []
    for system, made in systems.items():
        for key, knob in made["knobs"].items():
            each = [one["measured"][key] for one in rounds[system]]
            figures = {name: statistics.median(of[name] for of in each) for name in each[0]}
            held = rounds[system][-1]["bytes_a_vector"]
            found.append(
                {
                    "target": key.partition(" ")[0],
                    "system": key.partition(" ")[2] or system,
                    "what": rounds[system][-1]["what"],
                    "version": made["version"],
                    "knob": knob,
                    **figures,
                    "ram": held["own"],
                    "mapped": held["file"],
                    "disk": made["disk"] / count,
                    "build_s": made["build_s"],
                    "build_peak": made["build_peak"],
                    "rounds": [of["queries_s"] for of in each],
                }
            )
    return found


HEAD = (
    "| target | system | effort | recall@10 | batch queries/s | single p50 ms | p99 ms "
    "| RAM B/vector | mapped B/vector | disk B/vector | build s | build peak MiB |"
)


def print_table(rows: list[dict[str, Any]], targets: list[str]) -> None:
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|")
    for target in targets:
        for row in sorted((row for row in rows if row["target"] == target), key=lambda row: -row["queries_s"]):
            cells = [
                target,
                f"{row['system']} ({row['what']})",
                ", ".join(f"{name} {value}" for name, value in row["knob"].items()) or "-",
                f"{row['recall']:.4f}",
                f"{row['queries_s']:,.0f}",
                *(f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms")),
                *(f"{row[name]:,.0f}" for name in ("ram", "mapped", "disk", "build_s")),
                f"{row['build_peak'] / 2**20:,.0f}",
            ]
            print("| " + " | ".join(cells) + " |")
    for target in targets:
        print_ratios({row["system"]: row for row in rows if row["target"] == target}, target)


def print_ratios(rows: dict[str, dict[str, Any]], target: str) -> None:
    # Who misses the recall by more than chance is left out; Flat is a measure of its own.
    peers = [row for name, row in rows.items() if not name.startswith(OURS) and name != "Flat"]
    peers = [row for row in peers if row["recall"] >= float(target) - 0.005]
    for name in (OURS, ALIKE):
        for what, those in (("Flat", [rows[one] for one in ("Flat",) if one in rows]), ("the best peer", peers)):
            if name in rows and those:
                fastest = max(those, key=lambda row: row["queries_s"])
                quickest = min(those, key=lambda row: row["p50_ms"])
                rate = rows[name]["queries_s"] / fastest["queries_s"]
                latency = rows[name]["p50_ms"] / quickest["p50_ms"]
                print(
                    f"{target}, {name} / {what}: {rate:.3g} times the queries/s of {fastest['system']} in batches, "
                    f"{latency:.3g} times the milliseconds of {quickest['system']} alone (p50)"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps vectors and indexes")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--shape", choices=("clustered", "duplicates", "manifold"), default="clustered")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default="0.95,0.99")
    parser.add_argument("--peers", default=";".join(name for name in SYSTEMS if name != SLOW), help="separated by ;")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    bench = Bench(arguments)
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {arguments.threads} threads; "
        f"{arguments.count:,} x {arguments.width}, {arguments.shape}, {QUERIES} queries, {arguments.rounds} rounds",
        flush=True,
    )
    made = {system: bench.build_and_tune(system) for system in arguments.peers.split(";")}
    systems = {system: of for system, of in made.items() if of is not None}
    rounds: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(arguments.rounds):
        for system, of in systems.items():
            if (measured := bench.run(system, "measure", knobs=of["knobs"])) is not None:
                rounds[system].append(measured)
    rows = table_rows(
        {system: systems[system] for system, several in rounds.items() if several}, rounds, arguments.count
    )
    print_table(rows, [f"{target:g}" for target in bench.targets])
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (bench.data / "results.jsonl").write_text(lines, encoding="utf-8")
    print(f"one JSON line a row: {bench.data / 'results.jsonl'}")


if __name__ == "__main__":
    main()
