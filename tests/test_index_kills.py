"""Killed at any moment, an index is the old one or the new one; who searches meanwhile notices nothing.

Dozens of runs are killed here. So one process loads what they need and forks: what is killed is the
fork. The parent never searches, for FAISS hangs after a `fork` once it has used threads.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.libraries import add_clips, clustered, make_library
from vmae_embed.errors import LibraryError
from vmae_embed.index import Index, IndexSpec, store
from vmae_embed.library import Library

pytestmark = pytest.mark.slow

# Starts runs as it is told on stdin: {"start": arguments of an IndexSpec, "library", "stderr"} answers with a process
# id, {"wait": id} with how it ended. With "die_at", a run sends itself "signal" before its n-th step: of Python's on
# files below the library's index, or of ours that write by other means.
DRIVER = """
import json, os, resource, signal, sys

import numpy, pyarrow.parquet, faiss

from vmae_embed.errors import VmaeEmbedError
from vmae_embed.index import Index, IndexSpec, generation
from vmae_embed.library import Library

print(0, flush=True)
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir"}

def die_at(step, which, folder):
    steps = 0

    def count():
        nonlocal steps
        if steps == step:
            os.kill(os.getpid(), which)
        steps += 1

    def hook(event, arguments):
        if event in STEPS and str(arguments[0]).startswith(folder):
            count()

    def counted(function):
        def wrapper(*arguments, **options):
            count()
            return function(*arguments, **options)
        return wrapper

    sys.addaudithook(hook)
    for name in ("append", "vectors", "write_table", "write_faiss", "finish"):
        setattr(generation.Draft, name, counted(getattr(generation.Draft, name)))
    generation._sync = counted(generation._sync)
    return lambda: steps

for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    os.dup2(os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    code, steps = 70, None
    try:
        library = Library.open(task["library"])
        if "die_at" in task:
            steps = die_at(task["die_at"], task.get("signal", signal.SIGKILL), str(library.index_path))
        if "room" in task:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (task["room"], task["room"]))
        print(Index.update(library, IndexSpec(**task["start"])), file=sys.stderr)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except VmaeEmbedError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        if steps:
            os.write(2, f"steps: {steps()}\\n".encode())
        os._exit(code)
"""

OLD = {"factory": "IVF16,PQ4x4fsr", "target_recall": 0.9}


class Driver:
    """Starts runs and ends them."""

    def __init__(self, folder):
        self._stderr = folder / "stderr"
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        self._answer()

    def _ask(self, **task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        return int(self._process.stdout.readline())

    def start(self, lib, spec, **task):
        return self._ask(start=spec, library=str(lib), stderr=str(self._stderr), **task)

    def wait(self, pid):
        return self._ask(wait=pid)

    def run(self, *arguments, **task):
        """Exit code and lines printed."""
        code = self.wait(self.start(*arguments, **task))
        return code, self._stderr.read_text().splitlines()

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    driver = Driver(tmp_path_factory.mktemp("driver"))
    yield driver
    driver.close()


def change(library, number):
    """Remove a video, and add twenty clips that were never there."""
    with library.lock():
        library.remove_videos([library.column("video_id")[-1]])
        add_clips(library, clustered(20, 16, seed=100 + number), prefix=f"n{number}-", first_unit=1000 + number)


@pytest.fixture(scope="module")
def libraries(driver, tmp_path_factory):
    """One without an index; one whose index is behind: clips were added to it and others removed; one to retune."""
    folder = tmp_path_factory.mktemp("libraries")
    bare = make_library(folder / "bare", clustered(1600, 16))
    shutil.copytree(bare.path, folder / "current")
    assert driver.run(folder / "current", OLD)[0] == 0
    shutil.copytree(folder / "current", folder / "behind")
    change(Library.open(folder / "behind"), 1)
    return {
        "build": (bare.path, OLD),
        "follow": (folder / "behind", OLD),
        "retune": (folder / "current", {**OLD, "target_recall": 0.99}),
        "rebuild": (folder / "current", {**OLD, "factory": "IVF8,SQ8"}),
        "exact": (folder / "behind", {"factory": "exact"}),
    }


def contents(lib):
    """All that an index says, but for how long it took and what its folder is called."""
    index = Index(Library.open(lib), Path(lib) / "index")
    about = {k: v for k, v in index.about.items() if k not in ("latency_ms", "trained", "made", "folder")}
    folder = index.about["folder"]
    files = sorted(str(path.relative_to(lib)).replace(folder, "N") for path in Path(lib).rglob("*"))
    codes = (Path(lib) / "index" / folder / "index.faiss").read_bytes() if index.effort else b""
    return files, about, index.clips, index.vectors(np.arange(index.clips.num_rows)).tobytes(), codes


def assert_answers(lib):
    """Whatever state an index is in, the next search is answered from one that is whole."""
    library = Library.open(lib)
    index = Index.open(library)
    assert index.verify() == []
    assert sorted(index.clips["clip_id"].take(index.live).to_pylist()) == sorted(library.column("clip_id"))
    found = index.search(library.embeddings()[::97], 1, exact=True)[1][:, 0]
    assert index.clips["clip_id"].take(found).to_pylist() == library.column("clip_id")[::97]


def before_and_after(driver, libraries, what, folder):
    """The library before, what is asked of its index, and what it must be then."""
    old, spec = libraries[what]
    shutil.copytree(old, folder / "undisturbed")
    code, said = driver.run(folder / "undisturbed", spec, die_at=-1)
    assert code == 0, said
    return old, spec, contents(folder / "undisturbed"), int(said[-1].removeprefix("steps: "))


def assert_same(lib, expected):
    for ours, theirs in zip(contents(lib), expected, strict=True):
        assert ours == theirs


@pytest.mark.parametrize("what", ["build", "follow", "retune", "rebuild", "exact"])
def test_killed_at_any_step(driver, libraries, tmp_path, what):
    old, spec, expected, steps = before_and_after(driver, libraries, what, tmp_path)
    assert steps > 15
    lib = tmp_path / "lib"
    # The last ones clear the old state away: the new one counts already.
    for step in [*random.Random(what).sample(range(steps - 3), 4), steps - 3, steps - 1]:
        shutil.copytree(old, lib)
        assert driver.run(lib, spec, die_at=step)[0] == -signal.SIGKILL
        shutil.copytree(lib, tmp_path / "searched")
        assert_answers(tmp_path / "searched")
        shutil.rmtree(tmp_path / "searched")
        code, said = driver.run(lib, spec)
        assert code == 0, said
        assert_same(lib, expected)
        shutil.rmtree(lib)


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_any_moment(driver, libraries, tmp_path, which):
    """One index survives stop after stop, in all that can be done with it."""
    moments = random.Random(which)
    lib = tmp_path / "lib"
    shutil.copytree(libraries["build"][0], lib)
    for turn, factory in enumerate(["IVF16,PQ4x4fsr", "IVF8,SQ8", "IVF8,SQ8", "exact", "IVF16,PQ4x4fsr"]):
        spec = {**OLD, "factory": factory}
        for _ in range(2):
            pid = driver.start(lib, spec)
            time.sleep(moments.uniform(0.02, 0.4))
            os.kill(pid, which)
            driver.wait(pid)  # however it ended: before it began, or when it was through, too
        code, said = driver.run(lib, spec)
        assert code == 0, said
        assert len(list((lib / "index").glob("[!.]*"))) == 2, "leftovers"
        assert_answers(lib)
        change(Library.open(lib), turn)


def test_interrupted_at_any_step(driver, libraries, tmp_path):
    """Ctrl-C clears up after itself."""
    old, spec, expected, steps = before_and_after(driver, libraries, "follow", tmp_path)
    for step in random.Random(0).sample(range(steps), 5):
        lib = tmp_path / str(step)
        shutil.copytree(old, lib)
        assert driver.run(lib, spec, die_at=step, signal=signal.SIGINT)[0] == 130
        assert driver.run(lib, spec)[0] == 0
        assert not list((lib / "index").glob(".*.tmp"))
        assert_same(lib, expected)


@pytest.mark.parametrize("short_of", [1, 100, 5000, 60_000])
def test_a_full_disk_leaves_the_old_index(driver, tmp_path, short_of):
    """By a limit on the size of files, which FAISS's and Arrow's own writing meets too.

    The last bytes of a file may be written when it is closed: that must not pass either.
    """
    vectors = clustered(400, 64)
    library = make_library(tmp_path / "lib", vectors)
    assert driver.run(library.path, {"factory": "exact"})[0] == 0
    before = (library.index_path / "index.json").read_bytes()
    spec = {"factory": "IVF8,Flat"}
    shutil.copytree(library.path, tmp_path / "roomy")
    assert driver.run(tmp_path / "roomy", spec)[0] == 0
    roomy = Library.open(tmp_path / "roomy")
    folder = roomy.index_path / Index(roomy, roomy.index_path).about["folder"]
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert max(sizes, key=sizes.get) == "index.faiss"
    code, said = driver.run(library.path, spec, room=sizes["index.faiss"] - short_of)
    assert code == 1
    assert len(said) == 1
    assert said[0].startswith(f"error: {library.index_path}: cannot be written (")
    assert (library.index_path / "index.json").read_bytes() == before
    assert len(list(library.index_path.glob("[!.]*"))) == 2
    assert_answers(library.path)


def test_an_index_that_cannot_be_written_is_searched_as_it_is(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(200, 16))
    opened = Index.build(library)
    mkdir = Path.mkdir

    def refuse(path, *arguments, **options):
        if path.parent == library.index_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    change(library, 0)
    with pytest.raises(LibraryError, match=r"index: cannot be written \(Permission denied\)$"):
        Index.update(library)
    index = Index.open(library)
    assert index.clips.equals(opened.clips)
    assert len(index.search(clustered(3, 16), 5)[1]) == 3


def test_a_library_in_use_is_indexed_and_searched_all_the_same(tmp_path):
    library = make_library(tmp_path / "lib", clustered(200, 16))
    with library.lock():
        assert len(Index.build(library).search(clustered(1, 16), 3)[1][0]) == 3
        add_clips(library, clustered(40, 16, seed=1), prefix="n", first_unit=7)
        assert len(Index.open(library)) == 240


def test_two_that_index_at_once_do_not_mix(driver, libraries, tmp_path):
    old, spec, expected, _ = before_and_after(driver, libraries, "follow", tmp_path)
    lib = tmp_path / "lib"
    shutil.copytree(old, lib)
    both = [driver.start(lib, spec) for _ in range(2)]
    assert sorted({driver.wait(pid) for pid in both}) in ([0], [0, 1])
    assert_same(lib, expected)


def test_a_state_that_is_cleared_away_while_it_is_read_gives_way_to_the_next(tmp_path, monkeypatch):
    """FAISS reports a file that is gone in its own way."""
    library = make_library(tmp_path / "lib", clustered(400, 16))
    Index.build(library, IndexSpec(factory="IVF4,SQ8"))
    real, calls = store.read_arrow, []

    def read(path):
        table = real(path)
        calls.append(path)
        if len(calls) == 2:  # all but the file of FAISS
            monkeypatch.setattr(store, "read_arrow", real)
            Index.build(library, IndexSpec(factory="IVF4,Flat"))
        return table

    monkeypatch.setattr(store, "read_arrow", read)
    assert Index(library, library.index_path).about["factory"] == "IVF4,Flat"


def test_a_state_that_is_not_the_shards_any_more_says_so(tmp_path):
    """Also when another process has brought the stored one up to date."""
    library = make_library(tmp_path / "lib", clustered(200, 16))
    opened = Index.build(library)
    change(library, 0)
    Index.update(library)
    assert ["behind the shards" in line for line in opened.verify()] == [True]
    assert Index.open(library).verify() == []


WRITER = """
import sys
from pathlib import Path
from tests.libraries import add_clips, clustered
from vmae_embed.errors import LibraryLocked
from vmae_embed.index import Index, IndexSpec
from vmae_embed.library import Library

library = Library.open(sys.argv[1])
factories = ["exact", "IVF8,SQ8", "IVF8,PQ4x4fsr"]
for turn in range(10_000):
    if turn % 2:
        add_clips(library, clustered(40, 16, seed=turn % 6), prefix=f"n{turn % 6}-", first_unit=1000)
    else:
        (library.path / "clips" / f"{1000:016x}.parquet").unlink(missing_ok=True)
    spec = IndexSpec(factory=factories[turn // 8 % 3], target_recall=0.8)
    while True:
        try:
            Index.update(library, spec)
        except LibraryLocked:
            continue
        break
    print(turn, flush=True)
"""


def test_searching_while_another_process_indexes_in_a_loop(tmp_path):
    vectors = clustered(1200, 16)
    library = make_library(tmp_path / "lib", vectors)
    Index.build(library)
    known = dict(zip(library.column("clip_id"), vectors, strict=True))
    for turn in (1, 3, 5):
        added = make_library(tmp_path / f"added{turn}", np.empty((0, 16), np.float32))
        add_clips(added, clustered(40, 16, seed=turn), prefix=f"n{turn}-")
        known.update(zip(added.column("clip_id"), added.embeddings(), strict=True))
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(library.path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        writer.stdout.readline()
        held = Index.open(library)
        names, states = held.clips["clip_id"].to_pylist(), set()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            current = Index(library, library.index_path)
            states.add(current.about["folder"])
            for index in (current, held, Index.open(library)):
                queries = clustered(4, 16, seed=len(states))
                scores, rows = index.search(queries, 5)
                clips = index.clips["clip_id"].take(rows.ravel()).to_pylist()
                expected = np.stack([known[clip] for clip in clips]).astype(np.float64)
                expected /= np.linalg.norm(expected, axis=1, keepdims=True)
                assert np.allclose(index.vectors(rows.ravel()), expected, atol=1e-6)
                asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
                assert np.allclose(scores.ravel(), (np.repeat(asked, 5, axis=0) * expected).sum(axis=1), atol=1e-5)
            assert held.clips["clip_id"].to_pylist() == names
            assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    assert len(states) > 5
    assert Index.open(library).verify() == []
