"""Frames that are left out change no bit of the others, and are left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests import videos
from tests.videos import read_index, write_video
from vmae_embed.decode import open_video, pyav
from vmae_embed.decode.pyav import _can_skip
from vmae_embed.decode.scan import decode_all, open_stream

_X265 = "log-level=error:bframes=4:b-pyramid=1"
STREAMS = {
    "h264 pyramid": ("libx264", ".mp4", {"bf": "4", "g": "48", "x264-params": "b-adapt=0:b-pyramid=normal"}),
    "h264 open gop": ("libx264", ".mkv", {"bf": "3", "g": "24", "x264-params": "open-gop=1"}),
    "h264 ts": ("libx264", ".ts", {"bf": "3", "g": "24", "x264-params": "open-gop=1"}),
    "hevc": ("libx265", ".mp4", {"x265-params": _X265}),
    "mpeg2": ("mpeg2video", ".ts", {"b": "2M", "bf": "2"}),
    "mpeg4": ("mpeg4", ".mp4", {"b": "2M", "bf": "3"}),
    "vp8": ("libvpx", ".webm", {"deadline": "realtime", "cpu-used": "8", "b": "2M", "auto-alt-ref": "0"}),
}
# What is not left out; skipping is harmless there.
KEPT = {
    "hevc temporal layers": ("libx265", ".mp4", {"x265-params": f"{_X265}:temporal-layers=3"}),
    "hevc ts": ("libx265", ".ts", {"x265-params": _X265}),
    "interlaced": ("libx264", ".mp4", {"flags": "+ildct+ilme", "x264-params": "tff=1", "bf": "2"}),
    "vp9": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "b": "2M"}),
    "av1": ("libsvtav1", ".mp4", {"preset": "10"}),
}
PATTERNS = {
    "every 4th": range(0, 90, 4),
    "every 5th from the 3rd": range(3, 90, 5),
    "neighbours and jumps": [0, 1, 2, 17, 18, 40, 77, 78, 89],
    "the last": [89],
}


def write(tmp_path, name):
    codec, suffix, options = {**STREAMS, **KEPT}[name]
    return str(videos.write_video(tmp_path / f"v{suffix}", codec=codec, frames=90, options=options))


def everything(path):
    with open_stream(path, 1) as (container, stream):
        frames = {frame.pts: frame.to_ndarray(format="rgb24") for frame in decode_all(container, stream)}
    return [frames[pts] for pts in sorted(frames)]


@pytest.mark.parametrize("name", [*STREAMS, *KEPT])
def test_wanted_frames_are_equal_to_the_bit(tmp_path, name):
    path = write(tmp_path, name)
    expected = everything(path)
    for wanted in PATTERNS.values():
        for index, picture in zip(wanted, open_video(path).frames(wanted), strict=True):
            assert np.array_equal(picture.rgb(), expected[index]), (name, index)


@pytest.mark.parametrize("name", [*STREAMS, *KEPT])
def test_what_is_skipped(tmp_path, name):
    with open_stream(write(tmp_path, name), 1) as (container, stream):
        assert _can_skip(stream) == (name in STREAMS)
        count = sum(1 for _ in decode_all(container, stream, lambda pts: False))
    if name in STREAMS and name != "vp8":  # libvpx refreshes some reference with every frame
        assert count < 60


def test_it_looks_no_further_ahead_than_it_must(tmp_path):
    path = videos.write_video(tmp_path / "v.mp4", frames=300, options={"bf": "3"})
    asked = []

    def indices():
        for index in range(0, 300, 2):
            asked.append(index)
            yield index

    for index, _ in enumerate(itertools.islice(open_video(str(path)).frames(indices()), 100)):
        assert asked[-1] <= 2 * index + 40


def test_a_second_pass_gives_the_same(tmp_path):
    """The first goes on with the scanned file, the second opens it anew."""
    for suffix in (".mp4", ".mkv", ".ts", ".avi"):
        codec = "mpeg4" if suffix == ".avi" else "libx264"
        reader = open_video(str(videos.write_video(tmp_path / f"v{suffix}", codec=codec, frames=60)))
        first, second = ([videos.read_index(p.rgb()) for p in reader.frames([0, 7, 59])] for _ in range(2))
        assert first == second == [0, 7, 59]
        reader.close()


def test_closing_leaves_a_pass_its_file(tmp_path):
    reader = open_video(str(videos.write_video(tmp_path / "v.mp4")))
    pictures = reader.frames([0, 30])
    assert videos.read_index(next(pictures).rgb()) == 0
    reader.close()
    assert videos.read_index(next(pictures).rgb()) == 30
    assert [videos.read_index(p.rgb()) for p in reader.frames([7])] == [7]


def test_a_stream_that_cannot_be_joined_is_gone_through_once(tmp_path, monkeypatch):
    """Intra-refresh marks places as keyframes that heal slowly: seeking there fails, for every sparse clip anew."""
    path = write_video(tmp_path / "refresh.mp4", frames=900, size=(96, 64), options={"x264-params": "intra-refresh=1"})
    seeks = []
    real = pyav._Decoding.seek

    def seek(decoding, pts):
        seeks.append(pts)
        real(decoding, pts)

    monkeypatch.setattr(pyav._Decoding, "seek", seek)
    reader = open_video(str(path))
    wanted = list(range(100, 900, 100))
    assert [read_index(picture.rgb()) for picture in reader.frames(wanted)] == wanted
    reader.close()
    assert seeks.count(None) <= 1
