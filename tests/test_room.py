"""How many clips videos will have, and what their tokens will take, before any of them is decoded."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from tests.test_workers import as_video, inject
from tests.videos import garbage, write_video
from vmae_embed.decode.header import read_header
from vmae_embed.errors import UsageError
from vmae_embed.pipeline import TokenRoom, room, token_room
from vmae_embed.plan import Plan, Unit
from vmae_embed.sampling import Sampling
from vmae_embed.workers import count_clips

# As sitecustomize.py: opening a video does what its name asks for.
TAKES_IT_DOWN = """
import os, time
import vmae_embed.decode.scan as scan

real = scan.open_stream

def open_stream(path, *arguments, **options):
    if "abort" in path:
        os.abort()
    if "sleep" in path:
        time.sleep(1000)
    return real(path, *arguments, **options)

scan.open_stream = open_stream
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 2, 3 and 5 clips, in several containers."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", frames=128)
    write_video(folder / "b.mkv", frames=192)
    write_video(folder / "c.webm", frames=320, codec="libvpx-vp9")
    return folder


def paths(folder, *names):
    return [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("sampling", "counts"),
    [
        (Sampling(), [2, 3, 5]),
        (Sampling(stride=4), [2, 3, 5]),
        (Sampling(stride=2), [4, 6, 10]),
        (Sampling(hop_s=16 / 15), [3, 5, 9]),
        (Sampling(frames=8), [4, 6, 10]),
        (Sampling(clips_per_video=4), [4, 4, 4]),
        (Sampling(uniform=True), [1, 1, 1]),
    ],
    ids=str,
)
def test_clips_are_counted_by_headers(folder, sampling, counts):
    assert count_clips(paths(folder, "a.mp4", "b.mkv", "c.webm"), sampling) == counts


def test_a_header_is_read_and_not_the_file(folder):
    timeline = read_header(str(folder / "a.mp4"))
    assert (timeline.fps, timeline.codec, len(timeline.times_s)) == (30, "h264", 128)
    assert timeline.duration_s == pytest.approx(128 / 30)


def test_a_header_that_claims_more_frames_than_the_file_has_bytes_tells_nothing(folder, tmp_path, monkeypatch):
    """As damaged AVI does; a run must not be refused for the room that such a file would take."""
    assert read_header(str(folder / "a.mp4")) is not None
    monkeypatch.setattr("os.stat", lambda path: SimpleNamespace(st_size=127))
    assert read_header(str(folder / "a.mp4")) is None


def test_what_cannot_be_read_costs_itself_alone(folder, tmp_path, monkeypatch):
    garbage(tmp_path / "garbage.mp4")
    shutil.copy(folder / "a.mp4", tmp_path / "abort.mp4")
    inject(monkeypatch, tmp_path / "site", TAKES_IT_DOWN)
    bad = paths(tmp_path, "garbage.mp4", "abort.mp4", "missing.mp4")
    good = paths(folder, "a.mp4", "b.mkv")
    assert count_clips([good[0], *bad, good[1], bad[1]], Sampling()) == [2, None, None, None, 3, None]


def test_what_does_not_answer_is_waited_for_no_longer_than_is_said(folder, tmp_path, monkeypatch):
    shutil.copy(folder / "a.mp4", tmp_path / "sleep.mp4")
    inject(monkeypatch, tmp_path / "site", TAKES_IT_DOWN)
    all_of_them = [*paths(folder, "a.mp4"), *paths(tmp_path, "sleep.mp4"), *paths(folder, "b.mkv")]
    assert count_clips(all_of_them, Sampling(), within_s=3) == [2, None, None]


def plan_of(*files):
    return Plan(
        units=[Unit("u1", tuple(as_video(path) for path in files[:2])), Unit("u2", tuple(map(as_video, files[2:])))]
    )


def test_all_videos_are_taken_to_be_like_those_that_were_looked_at(folder, tmp_path, monkeypatch):
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number:02}.mp4")
        shutil.copy(folder / "a.mp4", files[-1])
    garbage(files[0])
    asked = []
    real = room.count_clips
    monkeypatch.setattr(room, "count_clips", lambda paths, sampling: asked.extend(paths) or real(paths, sampling))
    found = token_room(plan_of(*files), Sampling(), (100, 50), tmp_path / "not" / "there")
    size, bad = files[1].stat().st_size, files[0].stat().st_size
    assert found.clips == round(2 * (11 * size + bad) / size)
    assert found.clip_bytes == 10_000
    assert found.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert len(asked) == 12
    asked.clear()
    monkeypatch.setattr(room, "_SAMPLE", 3)
    assert token_room(plan_of(*files), Sampling(clips_per_video=7), (100, 50), tmp_path).clips == 84
    assert asked == [str(files[number]) for number in (2, 6, 10)]


def test_where_no_video_tells_its_length_nothing_is_refused(tmp_path):
    garbage(tmp_path / "a.mp4")
    found = token_room(plan_of(tmp_path / "a.mp4"), Sampling(), (1568, 768), tmp_path)
    assert (found.clips, found.bytes) == (None, None)
    found.check(tmp_path)
    assert str(found).startswith("tokens: 2.41 MB a clip; how many clips there will be is not known; ")


def test_room_is_said_in_a_line_and_refused_where_there_is_too_little(tmp_path):
    found = TokenRoom(2_408_448, 12_000, 30 * 10**9)
    assert str(found) == "tokens: 2.41 MB a clip; about 12,000 clips, 28.90 GB; 30.0 GB free"
    found.check(tmp_path)
    with pytest.raises(
        UsageError, match=r"about 12,458 clips take 30\.00 GB, its disk has 30\.00 GB free; give another"
    ):
        TokenRoom(2_408_448, 12_458, 30 * 10**9).check(tmp_path)
