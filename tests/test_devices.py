"""Several devices: a process for each, the same rows, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import save_checkpoint
from tests.test_workers import needs_proc
from tests.videos import garbage, write_video
from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError, VmaeEmbedError
from vmae_embed.extractor import run
from vmae_embed.library import Library, verify
from vmae_embed.pipeline import Progress, devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("checkpoint")), device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        write_video(folder / f"{i}.mp4", frames=90, size=(96, 64), first_index=100 * i)
    garbage(folder / "3_bad.mp4")
    return folder


@pytest.fixture(scope="module")
def many(videos, tmp_path_factory):
    """So many that both devices are at work for a while, however unevenly they start."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(60):
        os.link(videos / f"{i % 6}.mp4", folder / f"{i}.mp4")
    return folder


def device_pids():
    """Processes of devices, of this process."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_device(folder)]


def _is_device(folder):
    try:
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and b"pipeline.devices" in (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_devices_give_the_rows_of_one(videos, encoder, tmp_path):
    alone = run([videos], tmp_path / "one", encoder=encoder, workers=1)
    both = run([videos], tmp_path / "two", encoder=encoder, devices=["cpu", "cpu"], workers=2)
    assert both.setup.devices == ("cpu", "cpu")
    assert (both.videos, both.clips, len(both.failures)) == (7, 12, 1)
    assert both.library.table().equals(alone.library.table())
    assert [failure.video_id for failure in both.library.failures()] == ["3_bad.mp4"]
    assert verify(both.library) == []
    assert both.times.encode_s > 0
    assert run([videos], tmp_path / "two", encoder=encoder, devices=["cpu", "cpu"]).held == 7


def test_two_devices_store_the_tokens_of_one(videos, encoder, tmp_path):
    alone = run([videos], tmp_path / "one", encoder=encoder, workers=1, tokens=True).library
    both = run([videos], tmp_path / "two", encoder=encoder, devices=["cpu", "cpu"], workers=2, tokens=True).library
    assert verify(both) == []
    assert both.table().equals(alone.table())
    assert both.tokens().shape == (12, encoder.tokens, encoder.width)
    assert np.array_equal(np.asarray(both.tokens()), np.asarray(alone.tokens()))


@needs_proc
def test_a_device_whose_process_dies_ends_the_run_and_loses_nothing(many, encoder, tmp_path):
    committed = 0

    def kill(plan, progress: Progress):
        nonlocal committed
        committed += progress.committed
        if committed and len(pids := device_pids()) == 2:
            os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(VmaeEmbedError, match=r"^cpu: its process died \(SIGKILL\); what is complete is kept"):
        run([many], tmp_path / "lib", encoder=encoder, devices=["cpu", "cpu"], observe=kill)
    assert device_pids() == []
    library = Library.open(tmp_path / "lib")
    assert len(library.units()) > 0
    held = len(library.held())
    assert held < 60
    done = run([many], tmp_path / "lib", encoder=encoder, devices=["cpu", "cpu"])
    assert done.held == held
    assert done.library.table().equals(run([many], tmp_path / "one", encoder=encoder).library.table())


@needs_proc
@pytest.mark.timeout(120)
def test_a_device_that_answers_no_more_does_not_hold_up_the_end(many, encoder, tmp_path):
    def stop_one_kill_the_other(plan, progress: Progress):
        if not stopped and len(pids := device_pids()) == 2:
            os.kill(pids[0], signal.SIGSTOP)
            os.kill(pids[1], signal.SIGKILL)
            stopped.extend(pids)

    stopped = []
    with pytest.raises(VmaeEmbedError, match=r"^cpu: its process died \(SIGKILL\)"):
        run([many], tmp_path / "lib", encoder=encoder, devices=["cpu", "cpu"], observe=stop_one_kill_the_other)
    assert device_pids() == []


@needs_proc
@pytest.mark.parametrize("message", ["_Wanted", "_Task"])
def test_a_device_that_dies_before_it_is_told_is_one_line(monkeypatch, videos, encoder, tmp_path, message):
    real = devices.Connection.send

    def send(connection, item):
        if message == "_Task" if isinstance(item, devices._Task) else message == "_Wanted":
            pid = device_pids()[-1]
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}/fd").exists() and any(Path(f"/proc/{pid}/fd").iterdir()):
                time.sleep(0.01)
        real(connection, item)

    monkeypatch.setattr(devices.Connection, "send", send)
    with pytest.raises(VmaeEmbedError, match=r"^cpu: its process died \(SIGKILL\)"):
        run([videos], tmp_path / "lib", encoder=encoder, devices=["cpu", "cpu"])


def test_a_device_that_is_not_there_is_one_line(videos, encoder, tmp_path):
    with pytest.raises(UsageError, match=r"^device='nosuch': give cpu, cuda") as caught:
        run([videos], tmp_path / "lib", encoder=encoder, devices=["cpu", "nosuch"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "lib").exists()


@needs_proc
def test_an_observer_that_raises_ends_the_processes(videos, encoder, tmp_path):
    def observe(plan, progress):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run([videos], tmp_path / "lib", encoder=encoder, devices=["cpu", "cpu"], observe=observe)
    until = time.monotonic() + 5
    while device_pids() and time.monotonic() < until:
        time.sleep(0.02)
    assert device_pids() == []


@needs_proc
def test_nothing_outlives_a_killed_parent(videos, encoder, tmp_path):
    mark = f"VMAE_EMBED_TEST_MARK={uuid.uuid4()}"
    name, _, value = mark.partition("=")
    checkpoint = encoder.identity["checkpoint"]
    command = [
        "extract",
        str(videos),
        "-o",
        str(tmp_path / "lib"),
        "--model",
        checkpoint,
        "--devices",
        "cpu,cpu",
        "--hop",
        "0.01",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "vmae_embed", *command, "--quiet"],
        env={**os.environ, name: value},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("lib/clips/*.parquet")) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(marked(mark)) >= 3  # the parent, devices, and their decoding processes
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert marked(mark) == []
    done = run([videos], tmp_path / "lib", encoder=encoder)
    assert done.held + done.videos == 7
    assert done.held > 0


def marked(mark):
    """Processes that inherited a mark in their environment."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if mark.encode() in environment(folder)]


def environment(folder):
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
