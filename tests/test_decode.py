"""Both decoders held to one contract, on encoded files whose frames carry their own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests import videos
from tests.conftest import SHARED
from vmae_embed.decode import decode_clips, open_video
from vmae_embed.errors import DecodeError, DecoderRefused, UsageError
from vmae_embed.records import ClipSpan
from vmae_embed.sampling import Sampling, plan_spans

BACKENDS = ["pyav", "decord"]

# 8-bit pictures are equal to the bit, but for the colour of interlaced ones. The two FFmpeg builds
# upsample the colour of 10-bit pictures by different filters: edges of pure colour differ.
MOST_APART, MEAN_APART, MEAN_APART_10_BIT = 8, 0.5, 4.0


def assert_alike(a, b, path=""):
    difference = np.abs(a.astype(int) - b)
    if "10bit" in str(path):
        assert difference.mean() <= MEAN_APART_10_BIT, path
    else:
        assert difference.mean() <= MEAN_APART, path
        assert difference.max() <= MOST_APART, path


def rgb(picture):
    return picture.rgb()


def numbers(path, indices, decoder="pyav"):
    reader = open_video(str(path), decoder)
    return [videos.read_index(picture.rgb()) for picture in reader.frames(indices)]


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("codec", sorted(videos.CODECS))
def test_frames_are_those_asked_for(tmp_path, codec, decoder):
    path = videos.write_video(tmp_path / f"v{videos.CODECS[codec].suffix}", codec=codec, frames=60)
    try:
        reader = open_video(str(path), decoder)
    except DecoderRefused:
        assert decoder == "decord"
        return
    assert len(reader.timeline.times_s) == 60
    assert [videos.read_index(p.rgb()) for p in reader.frames([0, 1, 7, 30, 31, 59])] == [0, 1, 7, 30, 31, 59]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4"])
def test_backends_agree(tmp_path, codec):
    path = str(videos.write_video(tmp_path / f"v{videos.CODECS[codec].suffix}", codec=codec, frames=40))
    ours, theirs = open_video(path, "pyav"), open_video(path, "decord")
    assert np.array_equal(ours.timeline.times_s, theirs.timeline.times_s)
    for a, b in zip(ours.frames(range(0, 40, 3)), theirs.frames(range(0, 40, 3)), strict=True):
        assert_alike(a.rgb(), b.rgb())


@pytest.mark.skipif(not SHARED.exists(), reason="no shared videos beside the checkout")
def test_backends_agree_on_real_files():
    compared = 0
    for path in sorted((SHARED / "videos/zoo").rglob("*")):
        if not path.is_file() or "long_2h" in path.name:
            continue
        try:
            ours, theirs = open_video(str(path), "pyav"), open_video(str(path), "decord")
            chosen = range(0, len(ours.timeline.times_s), 7)
            pairs = [(a.rgb(), b.rgb()) for a, b in zip(ours.frames(chosen), theirs.frames(chosen), strict=True)]
        except DecodeError:
            continue
        for a, b in pairs:
            assert_alike(a, b, path)
        compared += 1
    assert compared >= 55


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees, decoder):
    path = videos.write_video(tmp_path / "v.mp4", rotation=degrees, size=(160, 96))
    reader = open_video(str(path), decoder)
    assert (reader.timeline.width, reader.timeline.height) == (160, 96)
    (picture,) = reader.frames([9])
    frame = picture.rgb()
    assert frame.shape == (96, 160, 3)
    assert videos.read_index(frame) == 9


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_times_are_the_streams_own(tmp_path, suffix, decoder):
    pts = [0, 0.1, 0.2, 0.5, 0.6, 1.5, 1.6, 2.0]
    path = videos.write_video(tmp_path / f"v{suffix}", frames=8, pts=pts)
    reader = open_video(str(path), decoder)
    assert np.allclose(reader.timeline.times_s, pts, atol=0.001)
    assert numbers(path, [2, 5, 7], decoder) == [2, 5, 7]


def test_late_start_keeps_its_place_behind_the_sound(tmp_path):
    path = videos.write_video(tmp_path / "v.mkv", start_s=2.0, audio=True)
    assert open_video(str(path)).timeline.times_s[0] == pytest.approx(2.0, abs=0.03)
    assert numbers(path, [0, 5]) == [0, 5]


def test_a_stream_whose_clock_starts_late_begins_at_zero(tmp_path):
    path = videos.write_video(tmp_path / "v.ts", start_s=3600.0)
    assert open_video(str(path)).timeline.times_s[0] == pytest.approx(0, abs=0.1)


def test_edit_list_cuts_what_it_cuts(tmp_path):
    path = videos.edit_list(tmp_path / "v.mp4", 1.1)
    reader = open_video(str(path))
    assert len(reader.timeline.times_s) == 27
    assert reader.timeline.times_s[0] == pytest.approx(0, abs=0.001)
    assert numbers(path, [0, 1, 26]) == [33, 34, 59]
    with pytest.raises(DecoderRefused, match="decord counts"):
        open_video(str(path), "decord")


def test_recording_that_starts_between_keyframes(tmp_path):
    path = videos.cut_ts_mid_gop(tmp_path / "v.ts")
    count = len(open_video(str(path)).timeline.times_s)
    assert count == 36
    assert numbers(path, [0, 1, count - 1]) == [24, 25, 59]


def test_best_of_two_streams(tmp_path):
    path = videos.two_video_streams(tmp_path / "v.mkv")
    ours, theirs = (open_video(str(path), decoder) for decoder in BACKENDS)
    assert next(iter(ours.frames([3]))).rgb().shape == next(iter(theirs.frames([3]))).rgb().shape


@pytest.mark.parametrize("make", [videos.bframes_avi, videos.vp8_altref])
def test_packets_that_lie_about_frames(tmp_path, make):
    path = make(tmp_path / ("v.avi" if make is videos.bframes_avi else "v.webm"))
    timelines = []
    spans = [ClipSpan(0, 2, tuple(range(0, 48, 3)))]
    (clip,) = decode_clips(str(path), lambda _: spans, rgb, on_timeline=timelines.append)
    shown = [videos.read_index(frame) for frame in clip.frames]
    if make is videos.bframes_avi:
        assert shown == list(range(0, 48, 3))
    else:  # every 12th packet, from the 6th, shows nothing
        visible = [i for i in range(60) if i % 12 != 6]
        assert shown == [visible[i] for i in range(0, 48, 3)]
    assert len(timelines) == 2  # begun anew


def test_sparse_frames_are_sought_and_right(tmp_path):
    path = videos.write_video(tmp_path / "v.mp4", frames=600, options={"g": "30", "bf": "3"})
    assert numbers(path, [5, 299, 431, 599]) == [5, 299, 431, 599]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_open_gop_sought(tmp_path, suffix):
    options = {"g": "40", "bf": "3", "x264-params": "open-gop=1"}
    path = videos.write_video(tmp_path / f"v{suffix}", frames=400, options=options)
    wanted = [0, 79, 80, 81, 200, 201, 399]
    assert numbers(path, wanted) == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: videos.garbage(path), "not a readable video"),
        (lambda path: path.write_bytes(b"") or path, "not a readable video"),
        (
            lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n") and path,
            "not a readable video|playlist",
        ),
        (lambda path: path, "the file has vanished"),
        (lambda path: videos.write_audio_only(path.with_suffix(".m4a")), "no video stream"),
        (lambda path: videos.attached_picture(path.with_suffix(".mp3")), "no video stream"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path, make, message):
    path = make(tmp_path / "v.mp4")
    with pytest.raises(DecodeError, match=message) as caught:
        open_video(str(path))
    assert caught.value.stage == "open"
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_file_cut_short_is_never_passed_off_as_whole(tmp_path, suffix, decoder):
    options = {"movflags": "faststart"} if suffix == ".mp4" else None
    whole = videos.write_video(tmp_path / f"v{suffix}", frames=240, container_options=options)
    path = videos.truncate(whole, 0.5)
    with pytest.raises(DecodeError, match="cut short"):
        list(decode_clips(str(path), lambda t: plan_spans(t, Sampling()), rgb, decoder=decoder))


def test_damage_is_reported_or_harmless(tmp_path):
    """Flipped bits may fail a file; frames that come are in order and as many as asked for."""
    whole = videos.write_video(tmp_path / "v.mp4", frames=60)
    failed = 0
    for seed in range(8):
        path = videos.flip_bits(whole, 40, seed)
        try:
            (clip,) = decode_clips(str(path), lambda t: plan_spans(t, Sampling()), rgb)
            assert len(clip.frames) == 16
        except DecodeError:
            failed += 1
    assert failed


def test_overlapping_clips_decode_each_frame_once(tmp_path):
    path = str(videos.write_video(tmp_path / "v.mp4", frames=90))
    seen = []

    def count(picture):
        seen.append(videos.read_index(picture.rgb()))
        return picture.rgb()

    clips = list(decode_clips(path, lambda t: plan_spans(t, Sampling(hop_s=0.5)), count))
    assert seen == sorted(set(seen))
    for clip in clips:
        assert tuple(videos.read_index(f) for f in clip.frames) == clip.span.frames


def test_unknown_decoder():
    with pytest.raises(UsageError, match="decoder='ffmpeg': choose one of auto, pyav, nvdec, decord"):
        open_video("v.mp4", "ffmpeg")
