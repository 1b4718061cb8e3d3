"""Killed or interrupted at any moment, a run leaves a library that a rerun completes.

Loading torch takes seconds, and dozens of runs are killed here. So one process loads it and
forks: what is killed is the fork, which runs ``vmae-embed extract`` itself.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import save_checkpoint
from tests.test_workers import MISBEHAVE
from tests.videos import garbage, write_video
from vmae_embed.library import Library, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]

# Starts runs as it is told on stdin: {"start": arguments, "stderr": file} answers with a process
# id, {"wait": id} with how it ended. With "die_at", a run kills itself before its n-th step on files
# below a folder, and says on stdout how many there were if it lives.
DRIVER = """
import json, os, signal, sys

import torch

torch.set_num_threads(1)

from vmae_embed.cli import main
from vmae_embed.encoder import Encoder

import vmae_embed.cli.extract, vmae_embed.extractor

Encoder.from_pretrained(sys.argv[1])
print(0, flush=True)

def die_at(step, folder):
    steps = 0

    def hook(event, arguments):
        nonlocal steps
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(folder):
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(hook)
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
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    os.dup2(os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    steps = die_at(*task["die_at"]) if "die_at" in task else None
    code = 70
    try:
        main(task["start"])
    except SystemExit as stop:
        code = stop.code
    finally:
        if steps:
            os.write(2, f"steps: {steps()}\\n".encode())
        os._exit(code)
"""


class Driver:
    """Starts runs and ends them."""

    def __init__(self, folder, checkpoint):
        self.folder = folder
        self.mark = f"VMAE_EMBED_TEST_MARK={uuid.uuid4()}"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(MISBEHAVE)
        name, _, value = self.mark.partition("=")
        path = os.pathsep.join([str(folder / "site"), *filter(None, sys.path)])
        self.environment = {**os.environ, name: value, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.checkpoint = checkpoint
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(checkpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        self._answer()

    def _ask(self, **task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        return int(self._process.stdout.readline())

    def arguments(self, videos, lib, *options):
        fixed = ["--model", str(self.checkpoint), "--device", "cpu", "--batch-size", "4", "--hop", "0.25"]
        return ["extract", str(videos), "-o", str(lib), *fixed, "--workers", "2", *options]

    def start(self, videos, lib, *options, **task):
        return self._ask(start=self.arguments(videos, lib, *options), stderr=str(self.folder / "stderr"), **task)

    def wait(self, pid):
        return self._ask(wait=pid)

    def run(self, *arguments, **task):
        """Exit code and lines printed."""
        code = self.wait(self.start(*arguments, **task))
        return code, self.said()

    def said(self):
        return (self.folder / "stderr").read_text().splitlines()

    def workers(self):
        """Decoding processes, of whatever run."""
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_worker(folder)]

    def _is_worker(self, folder):
        try:
            ours = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
            return ours and b"vmae_embed.workers" in (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False

    def assert_no_workers(self, within_s=5.0):
        until = time.monotonic() + within_s
        while (left := self.workers()) and time.monotonic() < until:
            time.sleep(0.02)
        assert not left

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    driver = Driver(folder, save_checkpoint(folder / "checkpoint"))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twelve of five clips, and two that fail, one by taking its process down."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(12):
        write_video(folder / f"{i:02}.mp4", frames=90, size=(96, 64), first_index=100 * i)
    garbage(folder / "05_bad.mp4")
    write_video(folder / "07_killed.mp4", frames=90, size=(96, 64))
    return folder


def contents(lib):
    """All that a library says, but for how long failing took."""
    library = Library.open(lib)
    files = sorted(str(path.relative_to(lib)) for path in Path(lib).rglob("*"))
    failures = sorted((f.video_id, f.stage, f.reason, f.fingerprint) for f in library.failures())
    tokens = None if library.config.tokens is None else np.asarray(library.tokens()).tobytes()
    return files, failures, tokens, library.table()


def assert_same(lib, expected):
    assert verify(Library.open(lib)) == []
    for ours, theirs in zip(contents(lib), expected, strict=True):
        assert ours == theirs


@pytest.fixture(scope="module")
def undisturbed(driver, videos, tmp_path_factory):
    """What a library of the videos must be, and how long it takes to make."""
    lib = tmp_path_factory.mktemp("undisturbed") / "lib"
    begun = time.monotonic()
    code, said = driver.run(videos, lib)
    seconds = time.monotonic() - begun
    assert code == 3, said
    expected = contents(lib)
    assert len(expected[3]) == 12 * 5
    assert [failure[:2] for failure in expected[1]] == [("05_bad.mp4", "open"), ("07_killed.mp4", "worker")]
    assert verify(Library.open(lib)) == []
    return expected, seconds


def test_undisturbed_runs_are_equal_to_the_bit(driver, videos, undisturbed, tmp_path):
    assert driver.run(videos, tmp_path / "lib", "--workers", "3")[0] == 3
    assert_same(tmp_path / "lib", undisturbed[0])
    driver.assert_no_workers()


TOKENS = 8 * 2 * 2  # of a clip: 16 frames of 32 pixels in tubelets of 2 and patches of 16


@pytest.fixture(scope="module")
def undisturbed_with_tokens(driver, videos, undisturbed, tmp_path_factory):
    lib = tmp_path_factory.mktemp("tokens") / "lib"
    assert driver.run(videos, lib, "--store", "tokens")[0] == 3
    expected = contents(lib)
    assert len(expected[2]) == 60 * TOKENS * 48 * 2
    assert expected[3] == undisturbed[0][3]
    return expected


def test_killed_or_interrupted_with_tokens(driver, videos, undisturbed, undisturbed_with_tokens, tmp_path):
    """What a killed run had spooled is cleared; what it had committed has its tokens."""
    moments, lib = random.Random(3), tmp_path / "lib"
    ended = set()
    for signum in (signal.SIGKILL, signal.SIGINT) * 4:
        pid = driver.start(videos, lib, "--store", "tokens")
        time.sleep(moments.uniform(0.1, 0.7 * undisturbed[1]))
        os.killpg(pid, signum)
        ended.add(driver.wait(pid))
        driver.assert_no_workers()
        if signum == signal.SIGINT and (lib / "library.json").exists():
            assert verify(Library.open(lib)) == []
        if moments.random() < 0.4:
            assert driver.run(videos, lib, "--store", "tokens")[0] == 3
            assert_same(lib, undisturbed_with_tokens)
            shutil.rmtree(lib)
    assert {-signal.SIGKILL, 130} <= ended
    assert driver.run(videos, lib, "--store", "tokens")[0] == 3
    assert_same(lib, undisturbed_with_tokens)


def test_killed_at_any_moment(driver, videos, undisturbed, tmp_path):
    """25 kills: one library survives one, the next two in a row, and so on."""
    expected, seconds = undisturbed
    moments = random.Random(0)
    left, died = 25, 0
    for in_a_row in (1, 2, 3, 4, 5, 10):
        lib = tmp_path / f"lib{in_a_row}"
        for _ in range(in_a_row):
            pid = driver.start(videos, lib)
            time.sleep(moments.uniform(0, seconds / in_a_row))
            os.kill(pid, signal.SIGKILL)
            died += driver.wait(pid) == -signal.SIGKILL
            left -= 1
        code, said = driver.run(videos, lib)
        assert code == 3, said
        assert_same(lib, expected)
    assert left == 0
    assert died > 8
    driver.assert_no_workers()


@pytest.mark.parametrize("stored", [(), ("--store", "tokens")], ids=["embeddings", "tokens"])
def test_killed_at_any_step_of_bringing_a_library_up_to_date(driver, videos, tmp_path, stored):
    """A video changed, one is new, one has gone, and failures are tried again: every kind of write."""
    folder, old, lib = tmp_path / "videos", tmp_path / "old", tmp_path / "lib"
    folder.mkdir()
    for name in ("00.mp4", "01.mp4", "02.mp4", "05_bad.mp4"):
        shutil.copy2(videos / name, folder)
    assert driver.run(folder, old, *stored)[0] == 3
    shutil.copy(videos / "09.mp4", folder / "00.mp4")
    shutil.copy(videos / "10.mp4", folder / "03.mp4")
    (folder / "02.mp4").unlink()
    options = ("--prune", "--retry-failed")

    shutil.copytree(old, lib)
    code, said = driver.run(folder, lib, *options, die_at=(-1, str(lib)))
    assert code == 3
    expected = contents(lib)
    assert sorted(set(expected[3]["video_id"].to_pylist())) == ["00.mp4", "01.mp4", "03.mp4"]
    steps = int(said[-1].removeprefix("steps: "))
    assert steps > 20
    for step in random.Random(1).sample(range(steps), 8):
        shutil.rmtree(lib)
        shutil.copytree(old, lib)
        assert driver.run(folder, lib, *options, die_at=(step, str(lib)))[0] == -signal.SIGKILL
        assert driver.run(folder, lib, *options)[0] == 3
        assert_same(lib, expected)
    driver.assert_no_workers()


def test_a_process_that_hangs_dies_with_its_killed_parent(driver, videos, tmp_path):
    os.link(videos / "00.mp4", tmp_path / "sleep_early.mp4")
    pid = driver.start(tmp_path / "sleep_early.mp4", tmp_path / "lib")
    until = time.monotonic() + 20
    while not driver.workers() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.5)  # until it has begun
    assert len(driver.workers()) == 1
    os.kill(pid, signal.SIGKILL)
    driver.wait(pid)
    driver.assert_no_workers()


def test_a_second_run_is_refused_in_one_line(driver, videos, tmp_path):
    lib = tmp_path / "lib"
    os.link(videos / "00.mp4", tmp_path / "sleep.mp4")
    first = driver.start(tmp_path / "sleep.mp4", lib)
    until = time.monotonic() + 20
    while not driver.workers() and time.monotonic() < until:
        time.sleep(0.02)
    code, said = driver.run(videos, lib)
    assert code == 1
    assert said == [f"error: {lib}: another run is writing to it; wait for it or stop it"]
    os.kill(first, signal.SIGKILL)
    driver.wait(first)
    assert driver.run(videos / "00.mp4", lib)[0] == 0  # the lock went with its process
    assert verify(Library.open(lib)) == []


@pytest.fixture
def ctrl_c_is_heard():
    """Shells start background jobs with SIGINT ignored, which children inherit; a handler they do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_at_any_moment(driver, videos, undisturbed, tmp_path):
    """Ctrl-C: one line, exit code 130, and nothing lost; a second Ctrl-C changes none of that."""
    expected, seconds = undisturbed
    moments = random.Random(2)
    lib = tmp_path / "lib"
    interrupted = 0
    for again in (False, True) * 4:
        pid = driver.start(videos, lib)
        time.sleep(moments.uniform(0.1, 0.8 * seconds))
        os.killpg(pid, signal.SIGINT)
        if again:
            time.sleep(0.01)
            os.killpg(pid, signal.SIGINT)
        code = driver.wait(pid)
        said = [line for line in driver.said() if line]  # click leaves the line with ^C on it
        driver.assert_no_workers()
        assert code in (130, 3), said
        if code == 130:
            interrupted += 1
            assert len(said) == 1, said
            assert "interrupted" in said[0]
        if (lib / "library.json").exists():
            assert verify(Library.open(lib)) == []
        if moments.random() < 0.4:
            assert driver.run(videos, lib)[0] == 3
            assert_same(lib, expected)
            shutil.rmtree(lib)
    assert interrupted
    assert driver.run(videos, lib)[0] == 3
    assert_same(lib, expected)


def test_ctrl_c_in_a_shell(ctrl_c_is_heard, driver, videos, undisturbed, tmp_path):
    lib = tmp_path / "lib"
    process = subprocess.Popen(
        [sys.executable, "-m", "vmae_embed", *driver.arguments(videos, lib)],
        env=driver.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list(lib.glob("clips/*.parquet")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert said == f"interrupted; what is complete is kept in {lib}: run the same command again to go on\n"
    driver.assert_no_workers()
    held = len(set(Library.open(lib).column("video_id")))
    assert 0 < held < 12
    code, said = driver.run(videos, lib)
    assert code == 3
    assert f"; {held} video{'s' * (held > 1)} already there" in said[0]
    assert_same(lib, undisturbed[0])
