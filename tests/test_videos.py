"""The fixture videos are what they claim to be."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.videos import (
    CODECS,
    attached_picture,
    bframes_avi,
    cut_ts_mid_gop,
    edit_list,
    flip_bits,
    garbage,
    paint,
    read_index,
    truncate,
    two_video_streams,
    vp8_altref,
    write_audio_only,
    write_video,
)


def decode(path: Path, stream: int = 0) -> tuple[list[int], list[float]]:
    """Indices and times of a file's frames, upright."""
    indices, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=stream):
            indices.append(read_index(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)))
            times.append(frame.time)
    return indices, times


@pytest.mark.parametrize("size", [(96, 64), (98, 66), (320, 240), (100, 400)])
def test_every_index_reads_back(size: tuple[int, int]) -> None:
    for index in (0, 1, 2, 1365, 2730, 4095):
        assert read_index(paint(index, size)) == index


def test_what_is_no_frame_of_ours_has_no_index() -> None:
    upright = paint(77, (160, 96))
    for frame in (upright[::-1], np.rot90(upright), np.zeros_like(upright)):
        with pytest.raises(ValueError, match="no barcode"):
            read_index(frame)


@pytest.mark.parametrize("size", [(96, 64), (160, 96)])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_keeps_every_frame(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / f"clip{CODECS[codec].suffix}", codec=codec, size=size, frames=40)
    indices, times = decode(path)
    assert indices == list(range(40))
    # WebM and Matroska keep milliseconds; MPEG-PS starts late, by the size of its buffer.
    assert np.array(times) - times[0] == pytest.approx(np.arange(40) / 30, abs=0.0006)


def test_odd_rates_are_exact(tmp_path: Path) -> None:
    ntsc = Fraction(30000, 1001)
    _, times = decode(write_video(tmp_path / "ntsc.mp4", fps=ntsc, frames=10))
    assert times == pytest.approx([float(i / ntsc) for i in range(10)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_variable_rate_times_arrive_as_asked(tmp_path: Path, suffix: str) -> None:
    asked = [0.0, 0.1, 0.15, 0.5, 0.52, 1.0, 3.0]
    indices, times = decode(write_video(tmp_path / f"vfr{suffix}", pts=asked))
    assert indices == list(range(7))
    assert np.array(times) - times[0] == pytest.approx(np.array(asked))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90])
def test_rotation_is_reported_and_undone(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "rotated.mp4", rotation=rotation, frames=5)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.rotation - rotation) % 360 == 0
    assert (frame.width, frame.height) == ((96, 160) if rotation % 180 else (160, 96))
    assert decode(path)[0] == list(range(5))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_late_start_is_reported(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"late{suffix}", start_s=5, frames=10)
    with av.open(str(path)) as container:
        assert container.start_time == 5 * av.time_base
    assert decode(path)[1][0] == 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_starts_at_zero_when_the_picture_starts_late(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"late{suffix}", start_s=1, frames=10, audio=True)
    with av.open(str(path)) as container:
        # AAC begins with 1024 samples of silence, which older FFmpeg puts before zero in Matroska.
        assert container.start_time == pytest.approx(0, abs=1024 / 48_000 * av.time_base)
        assert len(container.streams.audio) == 1
    assert decode(path)[1][0] == 1


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mpeg4"])
def test_sound_does_not_move_the_picture(tmp_path: Path, codec: str) -> None:
    path = write_video(tmp_path / f"loud{CODECS[codec].suffix}", codec=codec, frames=10, audio=True)
    assert decode(path)[1] == pytest.approx(np.arange(10) / 30, abs=0.0006)


def test_edit_list_drops_frames(tmp_path: Path) -> None:
    path = edit_list(tmp_path / "edited.mp4", 1.1)
    with av.open(str(path)) as container:
        discarded = [packet.is_discard for packet in container.demux(video=0) if packet.size]
    # From the keyframe at 24 on; 33 is the first that is shown.
    assert discarded.count(True) == 9
    indices, times = decode(path)
    assert indices == list(range(33, 60))
    assert times[0] == 0


def test_two_video_streams(tmp_path: Path) -> None:
    path = two_video_streams(tmp_path / "two.mkv")
    with av.open(str(path)) as container:
        assert [stream.width for stream in container.streams.video] == [160, 320]
    assert decode(path, 0)[0] == list(range(30))
    assert decode(path, 1)[0] == list(range(1000, 1030))


def test_cut_transport_stream_starts_without_a_keyframe(tmp_path: Path) -> None:
    path = cut_ts_mid_gop(tmp_path / "cut.ts")
    with av.open(str(path)) as container:
        keyframes = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert len(keyframes) == 50
    assert keyframes.index(True) == 14
    assert decode(path)[0] == list(range(24, 60))


def test_avi_makes_up_the_times_of_b_frames(tmp_path: Path) -> None:
    indices, times = decode(bframes_avi(tmp_path / "b.avi"))
    assert indices == list(range(60))
    assert times != sorted(times)


def test_altref_packets_show_nothing(tmp_path: Path) -> None:
    path = vp8_altref(tmp_path / "altref.webm")
    with av.open(str(path)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 60
    assert decode(path)[0] == [i for i in range(60) if i % 12 != 6]


def test_sound_without_moving_pictures(tmp_path: Path) -> None:
    with av.open(str(write_audio_only(tmp_path / "tone.m4a"))) as container:
        assert not container.streams.video
    with av.open(str(attached_picture(tmp_path / "song.mp3"))) as container:
        assert len(container.streams.audio) == len(container.streams.video) == 1
    assert decode(tmp_path / "song.mp3")[0] == [0]


def test_damage(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", container_options={"movflags": "faststart"})
    assert truncate(whole, 0.5).stat().st_size == round(whole.stat().st_size / 2)

    flipped = flip_bits(whole, 20, seed=1)
    before, after = (np.frombuffer(path.read_bytes(), np.uint8) for path in (whole, flipped))
    assert np.unpackbits(before ^ after).sum() == 20
    assert (before ^ after).nonzero()[0][0] >= len(before) * 0.2

    header_last = write_video(tmp_path / "header-last.mp4")
    for path in (truncate(header_last, 0.5), garbage(tmp_path / "noise.mp4")):
        with pytest.raises(av.InvalidDataError, match="Invalid data"):
            av.open(str(path))
