"""Decoding processes: what they deliver, and what a video that takes its process down costs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.videos import garbage, read_index, write_video
from vmae_embed.errors import VmaeEmbedError
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import Video
from vmae_embed.sampling import Sampling
from vmae_embed.workers import (
    ClipDecoded,
    DecodePool,
    UnitDone,
    VideoDone,
    VideoFailed,
    VideoStarted,
    WorkerConfig,
)

# The whole picture, large enough for the numbers painted on it to be read.
WHOLE = Preprocessing(None, (64, 96), (64, 96), 2, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# Put on PYTHONPATH as sitecustomize.py: decoding does what files' names ask for, at the third
# clip or, with `_early`, before the first.
MISBEHAVE = """
import ctypes, os, signal, struct, sys, time
import vmae_embed.decode

real = vmae_embed.decode.decode_clips
leaked = []

def misbehave(name):
    if "raise" in name:
        raise ArithmeticError("two\\nlines")
    if "eof" in name:
        raise EOFError("the decoder's, not the pipe's")
    if "segfault" in name:
        ctypes.string_at(0)
    if "abort" in name:
        os.abort()
    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out
    if "exit" in name:
        os._exit(0)
    if "torn" in name:
        os.write(int(sys.argv[1]), struct.pack("!i", 1000) + b"the rest of this message")
        os._exit(0)
    if "hang" in name:
        ctypes.PyDLL(None).sleep(1000)  # in C, and the interpreter's lock is not let go
    if "sleep" in name:
        time.sleep(1000)
    if "leak" in name:
        leaked.append(b"x" * 2**30)
    if "greedy" in name:
        taken = b"x" * 2**30
        time.sleep(0.5)

def decode_clips(path, *args, **kwargs):
    name = os.path.basename(path)
    if "_early" in name:
        misbehave(name)
    for i, clip in enumerate(real(path, *args, **kwargs)):
        if i == 2:
            misbehave(name)
        yield clip

vmae_embed.decode.decode_clips = decode_clips
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def inject(monkeypatch, folder, code=MISBEHAVE):
    """Have every decoding process run code before it begins."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


def worker_pids():
    """Decoding processes of this process."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_worker(folder)]


def _is_worker(folder):
    try:
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and b"vmae_embed.workers" in (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def as_video(path):
    status = path.stat()
    return Video(path.name, str(path), status.st_size, status.st_mtime_ns)


def make_config(timeout_s=None, slots=4, video_memory=None, **sampling):
    return WorkerConfig(Sampling(**sampling), WHOLE, "auto", False, timeout_s, slots, video_memory)


def decode(config, *units, workers=1):
    """Events of units, frames as the numbers painted on them."""
    events = []
    with DecodePool(config, workers) as pool:
        for event in pool.decode([(str(i), [as_video(path) for path in unit]) for i, unit in enumerate(units)]):
            if isinstance(event, ClipDecoded):
                events.append(("clip", event.unit, event.video.id, [read_index(frame) for frame in event.frames]))
            else:
                events.append(event)
    return events


def kinds(events):
    return [event[0] if isinstance(event, tuple) else type(event).__name__ for event in events]


def failures(events):
    return [event.failure for event in events if isinstance(event, VideoFailed)]


def done(events):
    return [event.video.id for event in events if isinstance(event, VideoDone)]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Seven seconds: clips at 0, 2.133, 4.267 and, as a tail, 4.867 s."""
    return write_video(tmp_path_factory.mktemp("videos") / "v.mp4", frames=210, size=(96, 64))


@pytest.fixture
def named(video, tmp_path):
    """Give the video other names."""

    def link(*names):
        return [Path(os.link(video, tmp_path / name) or tmp_path / name) for name in names]

    return link


def test_events_of_a_unit_come_in_order(named):
    events = decode(make_config(), named("a.mp4", "b.mp4"))
    video = ["VideoStarted", "clip", "clip", "clip", "clip", "VideoDone"]
    assert kinds(events) == [*video, *video, "UnitDone"]
    assert done(events) == ["a.mp4", "b.mp4"]
    clips = [event[3] for event in events if isinstance(event, tuple)]
    assert clips == [list(range(start, start + 61, 4)) for start in (0, 64, 128, 146)] * 2


def test_every_unit_is_done_once_however_many_processes(named):
    paths = named(*(f"{i}.mp4" for i in range(7)))
    for workers in (1, 3):
        events = decode(
            make_config(clips_per_video=1), paths[:2], paths[2:3], *([path] for path in paths[3:]), workers=workers
        )
        assert Counter(event.unit for event in events if isinstance(event, UnitDone)) == Counter("012345")
        assert sorted(done(events)) == [path.name for path in paths]


def test_a_file_that_is_no_video_fails_alone(named, tmp_path):
    good = named("a.mp4", "c.mp4")
    events = decode(make_config(), [good[0], garbage(tmp_path / "b.mp4"), good[1]])
    (failure,) = failures(events)
    assert (failure.video_id, failure.stage) == ("b.mp4", "open")
    assert failure.reason.startswith("not a readable video")
    assert done(events) == ["a.mp4", "c.mp4"]


BAD = {
    "raise.mp4": ("decode", "ArithmeticError: two lines"),
    "eof.mp4": ("decode", "EOFError: the decoder's, not the pipe's"),
    "eof_early.mp4": ("decode", "EOFError: the decoder's, not the pipe's"),
    "segfault.mp4": ("worker", "its decoding process died (SIGSEGV)"),
    "segfault_early.mp4": ("worker", "its decoding process died (SIGSEGV)"),
    "abort.mp4": ("worker", "its decoding process died (SIGABRT)"),
    "killed.mp4": ("worker", "its decoding process died (SIGKILL)"),
    "exit.mp4": ("worker", "its decoding process died (exit code 0)"),
    "torn.mp4": ("worker", "its decoding process died (exit code 0)"),
    "torn_early.mp4": ("worker", "its decoding process died (exit code 0)"),
    "hang.mp4": ("timeout", "took longer than 4 s (--video-timeout)"),
    "hang_early.mp4": ("timeout", "took longer than 4 s (--video-timeout)"),
    "sleep.mp4": ("timeout", "took longer than 4 s (--video-timeout)"),
}


@pytest.fixture(scope="module")
def among_good_ones(video, tmp_path_factory):
    """Events of units of three videos, the bad one in the middle; and the folder of them."""
    folder = tmp_path_factory.mktemp("bad")
    units = [[folder / f"a{i}.mp4", folder / name, folder / f"z{i}.mp4"] for i, name in enumerate(BAD)]
    for path in (path for unit in units for path in unit):
        os.link(video, path)
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, folder / "site")
        return decode(make_config(timeout_s=4.0), *units, workers=2), folder


@pytest.mark.parametrize("name", BAD)
def test_a_video_that_takes_its_process_down_fails_alone(among_good_ones, name):
    events, folder = among_good_ones
    unit = str(list(BAD).index(name))
    ours = [event for event in events if (event[1] if isinstance(event, tuple) else event.unit) == unit]
    (failure,) = failures(ours)
    assert (failure.video_id, failure.path) == (name, str(folder / name))
    assert (failure.stage, failure.reason) == BAD[name]
    assert failure.fingerprint == as_video(folder / name).fingerprint
    assert (failure.seconds > 3.9) == (failure.stage == "timeout")
    assert done(ours) == [f"a{unit}.mp4", f"z{unit}.mp4"]
    whole = ["VideoStarted", *["clip"] * 4, "VideoDone"]
    begun = [] if "_early" in name else ["VideoStarted", "clip", "clip"]
    assert kinds(ours) == [*whole, *begun, "VideoFailed", *whole, "UnitDone"]


@needs_proc
def test_a_video_that_takes_more_memory_than_it_may_fails_alone(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    unit = named("a.mp4", "greedy.mp4", "z.mp4")
    events = decode(make_config(video_memory=2**28), unit)
    (failure,) = failures(events)
    assert (failure.video_id, failure.stage) == ("greedy.mp4", "memory")
    assert failure.reason == "takes more than 0.25 GiB to decode (--video-memory)"
    assert done(events) == ["a.mp4", "z.mp4"]
    assert not failures(decode(make_config(), unit))


@needs_proc
def test_pictures_too_large_for_the_limit_are_told_as_such(tmp_path):
    path = write_video(tmp_path / "large.mp4", frames=8, size=(4096, 2304))
    (failure,) = failures(decode(make_config(video_memory=2**26), [path]))
    assert failure.stage == "memory", failure.reason
    assert not failures(decode(make_config(video_memory=2**30), [path]))


@needs_proc
def test_a_process_that_leaks_is_replaced_between_videos(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    seen = []
    with DecodePool(make_config(), 1) as pool:
        for event in pool.decode([("u", [as_video(path) for path in named("a.mp4", "b_leak.mp4", "c.mp4", "d.mp4")])]):
            if isinstance(event, VideoStarted):
                seen.append((event.video.id, *worker_pids()))
            assert not isinstance(event, VideoFailed)
    names, pids = zip(*seen, strict=True)
    assert names == ("a.mp4", "b_leak.mp4", "c.mp4", "d.mp4")
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_process_that_dies_before_it_is_up_is_started_again(monkeypatch, tmp_path, named):
    """A kill can hit the process that takes a dead one's place, too."""
    inject(
        monkeypatch,
        tmp_path / "site",
        f"""
import os
attempts = len(os.listdir({str(tmp_path)!r}))
open(os.path.join({str(tmp_path)!r}, str(attempts)), "w").close()
if attempts in (1, 2):  # there is the folder "site" itself
    os._exit(1)
""",
    )
    events = decode(make_config(), named("a.mp4"))
    assert done(events) == ["a.mp4"]


def test_a_video_says_what_it_cost(named):
    with DecodePool(make_config(), 1) as pool:
        events = list(pool.decode([("u", [as_video(path) for path in named("a.mp4")])]))
    (usage,) = (event.usage for event in events if isinstance(event, VideoDone))
    assert 0 < usage.work_s < 60
    assert usage.wait_s >= 0
    assert usage.resident == 0 or usage.resident > 2**20


def test_waiting_for_the_encoder_is_not_counted_as_work(named):
    with DecodePool(make_config(slots=1), 1) as pool:
        for event in pool.decode([("u", [as_video(path) for path in named("a.mp4")])]):
            if isinstance(event, ClipDecoded):
                time.sleep(0.3)
            if isinstance(event, VideoDone):
                assert event.usage.wait_s > 0.6
                assert event.usage.work_s < 0.6


@needs_proc
def test_processes_that_died_are_replaced(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    bad = named(*(f"{kind}_{i}.mp4" for kind in ("segfault", "killed", "exit") for i in range(2)))
    good = named(*(f"good_{i}.mp4" for i in range(4)))
    units = [(path.name, [as_video(path)]) for path in [*bad, *good]]
    verdicts = []
    with DecodePool(make_config(), 2) as pool:
        for event in pool.decode(units):
            verdicts += [event] if isinstance(event, (VideoDone, VideoFailed)) else []
            if len(failures(verdicts)) == len(bad):
                assert len(worker_pids()) == 2
    assert sorted(failure.video_id for failure in failures(verdicts)) == sorted(path.name for path in bad)
    assert sorted(done(verdicts)) == [path.name for path in good]


@needs_proc
def test_a_process_killed_from_outside_costs_the_video_it_was_at(named):
    first, *others = named("a.mp4", "b.mp4", "c.mp4")
    verdicts = []
    with DecodePool(make_config(slots=1), 1) as pool:
        for event in pool.decode([("u", [as_video(path) for path in (first, *others)])]):
            if isinstance(event, VideoStarted) and event.video.id == "a.mp4":
                for pid in worker_pids():
                    os.kill(pid, signal.SIGTERM)
            verdicts += [event] if isinstance(event, (VideoDone, VideoFailed)) else []
    assert [failure.reason for failure in failures(verdicts)] == ["its decoding process died (SIGTERM)"]
    assert done(verdicts) == ["b.mp4", "c.mp4"]


def test_waiting_for_the_encoder_is_not_on_the_clock(named):
    verdicts = []
    pauses = iter([2.0, 0.2, 0.2, 0.2])
    with DecodePool(make_config(timeout_s=1.5, slots=1), 1) as pool:
        for event in pool.decode([("u", [as_video(path) for path in named("a.mp4")])]):
            if isinstance(event, ClipDecoded):
                time.sleep(next(pauses))
            else:
                verdicts.append(type(event).__name__)
    assert verdicts == ["VideoStarted", "VideoDone", "UnitDone"]


def test_the_clock_goes_on_after_a_wait_for_the_encoder(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    begun = time.monotonic()
    with DecodePool(make_config(timeout_s=1.0, slots=1), 1) as pool:
        events = []
        for event in pool.decode([("u", [as_video(path) for path in named("hang.mp4")])]):
            events.append(event)
            if isinstance(event, ClipDecoded):
                time.sleep(0.3)
    assert [failure.stage for failure in failures(events)] == ["timeout"]
    assert time.monotonic() - begun < 4


def test_a_parent_that_ignores_alarms_still_has_timeouts(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        pool = DecodePool(make_config(timeout_s=0.5), 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pool:
        events = list(pool.decode([("u", [as_video(path) for path in named("hang.mp4")])]))
    assert [failure.stage for failure in failures(events)] == ["timeout"]


def test_the_default_limit_is_ten_minutes_or_four_times_the_length(monkeypatch, tmp_path):
    record = """
import signal
real = signal.setitimer
def setitimer(which, seconds, *interval):
    with open({log!r}, "a") as log:
        log.write(f"{{seconds}}\\n")
    return real(which, seconds, *interval)
signal.setitimer = setitimer
"""
    log = tmp_path / "alarms"
    inject(monkeypatch, tmp_path / "site", record.format(log=str(log)))
    short = write_video(tmp_path / "short.mp4", frames=4, size=(96, 64))
    long = write_video(tmp_path / "long.mkv", pts=[0, 500, 1000], size=(96, 64))

    def longest(path, timeout_s):
        log.write_text("")
        assert not failures(decode(make_config(timeout_s=timeout_s, clips_per_video=1), [path]))
        return max(float(line) for line in log.read_text().split())

    assert longest(short, None) == 600
    assert longest(long, None) == pytest.approx(4 * 1000, rel=0.01)
    assert longest(long, 7.0) == 7


def test_frames_stay_until_the_next_event_is_asked_for(named):
    config = make_config(slots=2)
    with DecodePool(config, 1) as pool:
        for event in pool.decode([("u", [as_video(path) for path in named("a.mp4")])]):
            if isinstance(event, ClipDecoded):
                before = event.frames.copy()
                time.sleep(0.1)
                assert np.array_equal(event.frames, before)
                assert read_index(event.frames[0]) == round(event.span.start_s * 30)


def test_modules_in_the_working_directory_do_not_shadow_ours(monkeypatch, tmp_path, named):
    paths = named("a.mp4")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    for name in ("av", "numpy", "queue", "signal", "random"):
        (cwd / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert done(decode(make_config(), paths)) == ["a.mp4"]


@needs_proc
def test_leaving_early_leaves_no_process_and_no_descriptor(monkeypatch, tmp_path, named):
    inject(monkeypatch, tmp_path / "site")
    units = [(path.name, [as_video(path)]) for path in named("hang_early.mp4", "a.mp4", "b.mp4")]
    before = set(os.listdir("/proc/self/fd"))
    with DecodePool(make_config(slots=1), 3) as pool:
        for event in pool.decode(units):
            if isinstance(event, ClipDecoded):
                break
        time.sleep(0.3)
        assert len(worker_pids()) == 3
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    assert worker_pids() == []
    del pool, event
    assert set(os.listdir("/proc/self/fd")) == before


@needs_proc
def test_a_pool_that_is_not_used_ends(named):
    with DecodePool(make_config(), 2):
        pass
    assert worker_pids() == []


@pytest.mark.parametrize(("executable", "why"), [("/bin/false", "exit code 1"), ("/no/such/python", "No such file")])
def test_processes_that_cannot_be_started_are_one_line(monkeypatch, named, executable, why):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(VmaeEmbedError, match=f"processes cannot be started .*{why}") as caught:
        decode(make_config(), named("a.mp4"))
    assert "\n" not in str(caught.value)
