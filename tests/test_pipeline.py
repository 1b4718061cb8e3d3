"""From units to shards, with an encoder that reads the numbers painted on the frames."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.test_workers import MISBEHAVE, WHOLE, as_video, inject, needs_proc, worker_pids
from tests.videos import bframes_avi, garbage, read_index, vp8_altref, write_video
from vmae_embed.extractor import run
from vmae_embed.library import Library, verify
from vmae_embed.pipeline import SLOTS, decoding_processes, run_units, sizing
from vmae_embed.plan import Unit
from vmae_embed.sampling import Sampling
from vmae_embed.workers import WorkerConfig

BROKEN = 2000


class ReadingEncoder:
    """Embeds a clip as the numbers on its frames 0, 5, 10 and 15; not finite from `BROKEN` on."""

    frames, width = 16, 4
    preprocessing = WHOLE

    def __init__(self, batch_size=3, pause_s=0.0):
        self.batch_size, self.pause_s = batch_size, pause_s
        self.identity = {"checkpoint": "stub", "revision": None, "weights_sha256": "0" * 64, "pooling": "mean"}
        self.identity |= {"norm": "none", "frames": self.frames, "width": self.width, "precision": "float32"}
        self.batches: list[int] = []
        self.device, self.compiled = torch.device("cpu"), False

    def empty_batch(self):
        return np.empty((self.batch_size, self.frames, *self.preprocessing.crop, 3), np.uint8)

    def submit(self, frames):
        self.batches.append(len(frames))
        embeddings = self.encode(frames)
        return SimpleNamespace(result=lambda: embeddings)

    def encode(self, frames):
        time.sleep(self.pause_s)
        numbers = np.array([[read_index(clip[i]) for i in (0, 5, 10, 15)] for clip in frames], np.float32)
        return np.where(numbers >= BROKEN, np.nan, numbers)


class TokenEncoder(ReadingEncoder):
    """Gives two tokens along, of the numbers on frames 1 to 4 and 6 to 9; beyond float16 from `BROKEN` on."""

    tokens = 2

    def submit(self, frames, *, with_tokens=False):
        embeddings = super().submit(frames).result()
        if not with_tokens:
            return SimpleNamespace(result=lambda: embeddings)
        tokens = [[[read_index(clip[first + i]) for i in range(4)] for first in (1, 6)] for clip in frames]
        tokens = np.array(tokens, np.float32)
        both = np.concatenate([embeddings[:, None], np.where(tokens >= BROKEN, 1e6, tokens)], axis=1)
        return SimpleNamespace(result=lambda: both)


class FlatEncoder(ReadingEncoder):
    """Embeds pictures without numbers."""

    def encode(self, frames):
        return frames.reshape(len(frames), -1)[:, :4].astype(np.float32) + 1


def rows(library):
    """Clips as (id, embedding), in order of video and time."""
    table = library.table(["clip_id", "embedding"])
    return sorted(zip(table["clip_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))


def assert_tokens_are_of_their_clips(library, frames=64):
    """At 7.5 frames a second, of videos of 30, a clip's i-th frame says 4 i more than its first, if it lasts."""
    assert verify(library) == []
    tokens = np.asarray(library.tokens(), np.float32)
    first = library.embeddings()[:, :1, None]
    steps = 4 * np.array([[1, 2, 3, 4], [6, 7, 8, 9]])
    assert np.array_equal(tokens, first + np.minimum(steps, frames - 1))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    return path


def test_a_clip_holds_the_frames_that_its_id_names(tmp_path, folder):
    write_video(folder / "a.mp4", frames=90, size=(96, 64))
    library = run([folder], tmp_path / "lib", encoder=ReadingEncoder()).library
    assert rows(library) == [
        ("a.mp4#t=0.000,2.133", [0, 20, 40, 60]),
        ("a.mp4#t=0.867,3.000", [26, 46, 66, 86]),
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_video_begun_anew_has_its_clips_once(tmp_path, folder, batch_size):
    """Both show other frames than their packets say; the WebM's last clip is the first to want one."""
    bframes_avi(folder / "b.avi", frames=150, size=(96, 64))
    vp8_altref(folder / "c.webm", frames=150, size=(96, 64))
    write_video(folder / "a.mp4", frames=150, size=(96, 64))
    encoder = ReadingEncoder(batch_size)
    library = run([folder], tmp_path / "lib", encoder=encoder, workers=1).library
    assert sum(encoder.batches) == 9 + 1  # one clip was void
    spans = {
        "a.mp4": ("0.000,2.133", "2.133,4.267", "2.867,5.000"),
        "b.avi": ("0.033,2.167", "2.167,4.300", "2.900,5.033"),  # FFmpeg delays such frames by one
        "c.webm": ("0.000,2.133", "2.133,4.267", "2.867,5.000"),
    }
    # A frame that is not shown leaves the one before it on the screen.
    on_screen = [i - 1 if i % 12 == 6 else i for i in range(150)]
    assert rows(library) == [
        (f"{name}#t={span}", [on_screen[i] if name == "c.webm" else i for i in range(first, first + 61, 20)])
        for name in spans
        for span, first in zip(spans[name], (0, 64, 86), strict=True)
    ]
    assert not library.failures()
    assert verify(library) == []


def unit_of(*paths):
    return Unit("0123456789abcdef", tuple(as_video(path) for path in paths))


def run_one_unit(tmp_path, encoder, unit, workers=1, timeout_s=None, tokens=False, **sampling):
    policy = Sampling(**sampling)
    first = [unit.videos[0].path]
    made = run(first, tmp_path / "lib", encoder=encoder, sampling=policy, workers=1, tokens=tokens).library
    made.remove_videos({Path(unit.videos[0].path).name})
    encoder.batches.clear()
    config = WorkerConfig(policy, WHOLE, "auto", False, timeout_s, SLOTS, None)
    with made.lock():
        progress = list(run_units([unit], encoder, made, config, workers=workers))
    return made, progress


def test_batches_fill_across_the_videos_of_a_unit(tmp_path, folder):
    paths = [write_video(folder / f"{i}.mp4", frames=90, size=(96, 64), first_index=100 * i) for i in range(4)]
    encoder = ReadingEncoder(batch_size=3)
    library, progress = run_one_unit(tmp_path, encoder, unit_of(*paths))
    assert encoder.batches == [3, 3, 2]
    assert [row for _, row in rows(library)] == [
        [100 * i + first + step for step in (0, 20, 40, 60)] for i in range(4) for first in (0, 26)
    ]
    assert sum(p.embedded for p in progress) == sum(p.committed for p in progress) == 8
    assert sum(p.videos for p in progress) == 4


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_tokens_of_a_unit_are_of_its_clips_whatever_fails_in_between(monkeypatch, tmp_path, folder, batch_size):
    """One is not finite, one dies half way, one is begun anew after a clip; the rest stays in line."""
    inject(monkeypatch, tmp_path / "site", MISBEHAVE)
    write_video(folder / "a.mp4", frames=90, size=(96, 64))
    write_video(folder / "b_broken.mp4", frames=90, size=(96, 64), first_index=BROKEN - 30)
    write_video(folder / "c.mp4", frames=90, size=(96, 64), first_index=300)
    write_video(folder / "d_killed.mp4", frames=300, size=(96, 64), first_index=1000)
    write_video(folder / "e.mp4", frames=150, size=(96, 64), first_index=500)
    unit = unit_of(*sorted(folder.iterdir()))
    library, _ = run_one_unit(tmp_path, TokenEncoder(batch_size), unit, tokens=True)
    assert [row[0] for _, row in rows(library)] == [0, 26, 300, 326, 500, 564, 586]
    assert [path.name for path in library.path.glob("tokens/*")] == [f"{unit.name}-7.npy"]
    assert_tokens_are_of_their_clips(library)
    assert sorted(f.video_id for f in library.failures()) == ["b_broken.mp4", "d_killed.mp4"]


def test_tokens_of_a_video_begun_anew_are_there_once(tmp_path, folder):
    vp8_altref(folder / "c.webm", frames=150, size=(96, 64))
    write_video(folder / "d.mp4", frames=90, size=(96, 64), first_index=300)
    library, _ = run_one_unit(tmp_path, TokenEncoder(), unit_of(*sorted(folder.iterdir())), tokens=True)
    found = np.asarray(library.tokens(), np.float32)
    assert found[:, 0, 0].tolist() == [4, 68, 89, 304, 330]  # the frame of 90 is not shown
    assert verify(library) == []


def test_tokens_beyond_half_precision_fail_their_video_alone(tmp_path, folder):
    """Its embeddings are finite: the number on a frame between theirs is not."""
    write_video(folder / "a.mp4", frames=64, size=(96, 64))
    write_video(folder / "b.mp4", frames=64, size=(96, 64), first_index=1000)
    encoder = TokenEncoder()
    submit = encoder.submit

    def overflow(frames, **options):
        both = submit(frames, **options).result()
        both[both[:, 0, 0] >= 1000, 2, 3] = 70000
        return SimpleNamespace(result=lambda: both)

    encoder.submit = overflow
    summary = run([folder], tmp_path / "lib", encoder=encoder, tokens=True)
    assert_tokens_are_of_their_clips(summary.library)
    assert summary.library.column("video_id") == ["a.mp4"]
    (failure,) = summary.failures
    assert (failure.video_id, failure.stage) == ("b.mp4", "encode")
    assert failure.reason.startswith("its tokens are not finite in float16; try")


def test_tokens_of_a_long_video_do_not_stay_in_memory(tmp_path, folder):
    """A clip's are 2 MB here, 200 clips' 400 MB."""

    class Wide(FlatEncoder):
        tokens, batch_size = 250_000, 4

        def submit(self, frames, *, with_tokens=False):
            both = np.ones((len(frames), 1 + self.tokens, self.width), np.float32)
            return SimpleNamespace(result=lambda: both)

    write_video(folder / "a.mp4", frames=124, size=(96, 64))
    tracemalloc.start()
    try:
        library = run([folder], tmp_path / "lib", encoder=Wide(), sampling=Sampling(hop_s=0.01), tokens=True).library
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert library.tokens().shape == (201, 250_000, 4)
    assert peak < 15 * 4 * 250_000 * 4  # three batches and the float16 of one, of a clip's 4 MB
    assert library.embeddings().tolist() == [[1] * 4] * 201


def test_clips_of_a_video_that_fails_half_way_are_dropped(monkeypatch, tmp_path, folder):
    write_video(folder / "a.mp4", frames=90, size=(96, 64))
    inject(monkeypatch, tmp_path / "site", MISBEHAVE)
    bad = write_video(folder / "killed.mp4", frames=300, size=(96, 64), first_index=1000)
    last = write_video(folder / "z.mp4", frames=90, size=(96, 64), first_index=500)
    encoder = ReadingEncoder(batch_size=3)
    library, progress = run_one_unit(tmp_path, encoder, unit_of(folder / "a.mp4", bad, last))
    assert [row[0] for _, row in rows(library)] == [0, 26, 500, 526]
    assert [(failure.video_id, failure.stage) for failure in library.failures()] == [("killed.mp4", "worker")]
    assert sum(p.committed for p in progress) == 4
    assert sum(p.videos for p in progress) == 3
    assert verify(library) == []


def test_embeddings_that_are_not_finite_fail_their_video_alone(tmp_path, folder):
    for name, first in (("a.mp4", 0), ("b.mp4", BROKEN - 80), ("c.mp4", 100)):
        write_video(folder / name, frames=90, size=(96, 64), first_index=first)
    encoder = ReadingEncoder()
    unit = unit_of(*sorted(folder.iterdir()))
    library, progress = run_one_unit(tmp_path, encoder, unit)
    assert [row[0] for _, row in rows(library)] == [0, 26, 100, 126]
    (failure,) = library.failures()
    assert (failure.video_id, failure.stage) == ("b.mp4", "encode")
    assert failure.reason.startswith("its embeddings are not finite")
    assert [f for p in progress for f in p.failures] == [failure]
    assert (sum(p.videos for p in progress), sum(p.committed for p in progress)) == (3, 4)
    assert verify(library) == []


def test_embeddings_beyond_half_precision_fail_their_video_where_that_is_stored(tmp_path, folder):
    write_video(folder / "a.mp4", frames=30, size=(96, 64))
    encoder = FlatEncoder()
    encoder.encode = lambda frames: np.full((len(frames), 4), 1e5, np.float32)
    library = run([folder], tmp_path / "half", encoder=encoder, stored="float16").library
    assert [(failure.video_id, failure.stage) for failure in library.failures()] == [("a.mp4", "encode")]
    assert run([folder], tmp_path / "single", encoder=encoder).library.embeddings().max() == 1e5


def test_a_run_counts_a_video_that_is_not_finite_as_failed(tmp_path, folder):
    write_video(folder / "a.mp4", frames=30, size=(96, 64))
    write_video(folder / "b.mp4", frames=30, size=(96, 64), first_index=BROKEN)
    summary = run([folder], tmp_path / "lib", encoder=ReadingEncoder())
    assert (summary.videos, summary.clips, len(summary.failures)) == (2, 1, 1)
    again = run([folder], tmp_path / "lib", encoder=ReadingEncoder())
    assert (again.videos, again.held, again.known_failures) == (0, 2, 1)


def test_a_slow_encoder_times_no_video_out(tmp_path, folder):
    write_video(folder / "a.mp4", frames=210, size=(96, 64))
    encoder = ReadingEncoder(batch_size=1, pause_s=0.2)
    summary = run([folder], tmp_path / "lib", encoder=encoder, sampling=Sampling(hop_s=0.5), video_timeout_s=1.5)
    assert not summary.failures
    assert summary.clips == len(encoder.batches) == 11
    assert summary.seconds > 11 * 0.2 > 1.5


def test_memory_does_not_grow_with_a_videos_length(tmp_path, folder):
    """2000 clips take 590 MB as pixels; forty of them are in the parent at most, a few more in the worker."""
    short, long = (folder / f"{frames}.mp4" for frames in (70, 664))
    peaks, sizes = {}, {}
    for path, frames in ((short, 70), (long, 664)):
        write_video(path, frames=frames, size=(96, 64))
        encoder = Watching(batch_size=8)
        tracemalloc.start()
        try:
            library = run([path], tmp_path / f"lib{frames}", encoder=encoder, sampling=Sampling(hop_s=0.01)).library
            peaks[path] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        sizes[path] = encoder.worker_kib
        assert verify(library) == []
    assert len(library) == 2001
    clip = 16 * 64 * 96 * 3
    assert peaks[long] < 6 * 8 * clip  # five batches: one filling, two ahead, two at the encoder
    if sizes[long]:
        assert sizes[long] - sizes[short] < 6 * 1024  # a frame for each that was decoded would be 11 MB


class Watching(FlatEncoder):
    """Notes how large its decoding process has become."""

    worker_kib = 0

    def encode(self, frames):
        if len(self.batches) % 20 == 1:
            for pid in worker_pids():
                status = Path(f"/proc/{pid}/status").read_text()
                size = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
                self.worker_kib = max(self.worker_kib, int(size.split()[1]))
        return super().encode(frames)


@needs_proc
def test_an_observer_that_raises_ends_the_processes(tmp_path, folder):
    write_video(folder / "a.mp4", frames=300, size=(96, 64))

    def observe(plan, progress):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as caught:
        run([folder], tmp_path / "lib", encoder=ReadingEncoder(), observe=observe)
    assert worker_pids() == []  # while the exception and its traceback live
    assert caught.value.args == ("enough",)
    assert run([folder], tmp_path / "lib", encoder=ReadingEncoder()).clips == 5


@needs_proc
def test_an_encoder_that_raises_ends_the_processes_and_commits_nothing(tmp_path, folder):
    write_video(folder / "a.mp4", frames=30, size=(96, 64))
    encoder = ReadingEncoder()
    encoder.encode = lambda frames: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        run([folder], tmp_path / "lib", encoder=encoder)
    assert worker_pids() == []
    assert Library.open(tmp_path / "lib").units() == []


def test_a_second_interrupt_does_not_end_the_run_before_its_stages(tmp_path, folder, monkeypatch):
    """The lock on the library goes with the run: nobody may still be writing to it then."""
    write_video(folder / "a.mp4", frames=30, size=(96, 64))
    events = []
    write_unit = Library.write_unit

    def slow_write(library, *arguments):
        events.append("begun")
        time.sleep(1.0)
        write_unit(library, *arguments)
        events.append("written")

    monkeypatch.setattr(Library, "write_unit", slow_write)

    def interrupt():
        while not events:
            time.sleep(0.01)
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)  # heard by the main thread
            time.sleep(0.1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run([folder], tmp_path / "lib", encoder=ReadingEncoder())
    finally:
        signal.signal(signal.SIGINT, before)
    assert events == ["begun", "written"]
    assert run([folder], tmp_path / "lib", encoder=ReadingEncoder()).held == 1


@pytest.mark.parametrize(
    ("units", "devices", "batch_bytes", "asked", "each"),
    [
        (100, 1, 1, None, 12),
        (5, 1, 1, None, 5),
        (100, 4, 1, None, 3),
        (100, 1, 1, 40, 40),
        (100, 8, 1, 2, 1),
        (100, 1, 2**30 // 10, None, 6),  # a quarter of the memory holds ten batches, four of them spare
        (100, 1, 2**30, None, 1),
    ],
)
def test_decoding_processes_are_as_many_as_can_be_fed(monkeypatch, units, devices, batch_bytes, asked, each):
    monkeypatch.setattr(sizing, "_processors", lambda: 12)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}[name])
    assert decoding_processes(units, devices, batch_bytes, asked=asked) == each


def test_progress_goes_by_what_has_been_through_the_encoder(tmp_path, folder):
    """Bytes come with batches, videos with their shard: neither runs ahead of what is done."""
    paths = [write_video(folder / f"{i}.mp4", frames=210, size=(96, 64)) for i in range(3)]
    garbage(folder / "bad.mp4")
    _, progress = run_one_unit(tmp_path, ReadingEncoder(batch_size=2), unit_of(*paths, folder / "bad.mp4"))
    embedded = np.cumsum([step.embedded for step in progress])
    covered = np.cumsum([step.bytes for step in progress])
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert covered[-1] == total
    assert embedded[-1] == 12
    assert 0.2 < covered[embedded == 6].max() / total < 0.8  # half of the clips
    assert [(step.videos, len(step.failures), step.committed) for step in progress if step.videos] == [(4, 1, 12)]
