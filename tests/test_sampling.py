"""Sampling: hand-worked cases, and properties that hold for every timeline."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_embed.errors import DecodeError, UsageError
from vmae_embed.records import Timeline
from vmae_embed.sampling import TOLERANCE_S, Sampling, plan_spans


def timeline(times, end=None):
    times = np.asarray(times, dtype=np.float64)
    step = float(np.diff(times).mean()) if len(times) > 1 else 1 / 30
    return Timeline(times, float(times[-1]) + step if end is None else end, 1 / step, 64, 48, "h264")


def constant(frames, fps):
    return timeline(np.arange(frames) / fps, frames / fps)


def spans(line, sampling, **part):
    return list(plan_spans(line, sampling, **part))


def test_default_at_30_fps_is_the_kinetics_stride_of_4():
    first = spans(constant(300, 30), Sampling())[0]
    assert first.frames == tuple(range(0, 64, 4))
    assert first.end_s == pytest.approx(16 / 7.5)


def test_ten_seconds_give_four_touching_windows_and_a_tail():
    clips = spans(constant(300, 30), Sampling())
    assert [round(c.start_s, 3) for c in clips] == [0, 2.133, 4.267, 6.4, 7.867]
    assert clips[-1].end_s == pytest.approx(10)
    assert clips[-1].frames[-1] == 296  # the last sample lies 1/7.5 s before the end, as in every window


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 50, 60, 120])
def test_matroska_milliseconds_choose_the_same_frames(fps):
    exact = np.arange(400) / fps
    stamped = np.round(exact, 3)
    by_exact = [c.frames for c in spans(timeline(exact), Sampling(fps=fps / 4))]
    by_stamped = [c.frames for c in spans(timeline(stamped), Sampling(fps=fps / 4))]
    assert by_stamped[:-1] == by_exact[:-1]


def test_exact_fit_has_no_tail():
    assert len(spans(constant(128, 30), Sampling(stride=4))) == 2
    assert len(spans(constant(64, 7.5), Sampling())) == 4


def test_one_more_frame_makes_a_tail():
    clips = spans(constant(129, 30), Sampling(stride=4))
    assert [c.frames[0] for c in clips] == [0, 64, 65]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(stride=4), Sampling(uniform=True), Sampling(clips_per_video=3)]
)
def test_short_video_repeats_its_last_frame(sampling):
    (clip,) = spans(constant(8, 30), sampling)
    assert (clip.start_s, clip.end_s) == (0, pytest.approx(8 / 30))
    assert clip.frames[-1] == 7
    assert len(clip.frames) == 16


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(stride=2), Sampling(uniform=True)])
def test_one_frame_is_a_clip(sampling):
    assert [c.frames for c in spans(timeline([0.0], 0.04), sampling)] == [(0,) * 16]


def test_uniform_is_the_published_ssv2_index_rule():
    # kinetics.py/ssv2.py of MCG-NJU/VideoMAE: tick = len / T; int(tick / 2 + tick * i)
    for frames in (16, 17, 33, 100, 325):
        (clip,) = spans(constant(frames, 12), Sampling(uniform=True))
        tick = frames / 16
        assert clip.frames == tuple(int(tick / 2 + tick * i) for i in range(16))
        (clip,) = spans(constant(frames, 12), Sampling(uniform=True, segment_starts=True))
        assert clip.frames == tuple(int(tick * i) for i in range(16))


def test_clips_per_video_spreads_from_first_to_last():
    clips = spans(constant(300, 30), Sampling(clips_per_video=3))
    assert [round(c.start_s, 3) for c in clips] == [0, 3.933, 7.867]
    assert [round(c.start_s, 3) for c in spans(constant(300, 30), Sampling(clips_per_video=1))] == [3.933]
    assert [c.frames[0] for c in spans(constant(300, 30), Sampling(stride=4, clips_per_video=2))] == [0, 236]


def test_hop_shorter_than_the_window_overlaps():
    clips = spans(constant(150, 30), Sampling(hop_s=1))
    assert [round(c.start_s, 3) for c in clips] == [0, 1, 2, 2.867]
    assert [c.frames[0] for c in spans(constant(150, 30), Sampling(stride=4, hop_s=1))] == [0, 30, 60, 86]


def test_hop_longer_than_the_window_leaves_gaps_but_no_longer_tail():
    assert [c.start_s for c in spans(constant(750, 30), Sampling(hop_s=10))] == [0, 10, 20]
    starts = [round(c.start_s, 3) for c in spans(constant(930, 30), Sampling(hop_s=10))]
    assert starts == [0, 10, 20, 28.867]


def test_variable_rate_shows_the_frame_on_screen():
    line = timeline([0, 0.1, 0.2, 2.0], 2.2)
    (clip,) = spans(line, Sampling(frames=4, fps=2, clips_per_video=1))
    assert clip.frames == (1, 2, 2, 2)  # at 0.1, 0.6, 1.1 and 1.6 s


def test_late_start_counts_from_the_first_frame():
    clips = spans(timeline(5 + np.arange(64) / 30), Sampling())
    assert clips[0].start_s == 5
    assert clips[0].frames[0] == 0


def test_part_of_a_video():
    line = constant(300, 30)
    (clip,) = spans(line, Sampling(), start_s=3, end_s=5)
    assert (clip.start_s, clip.end_s) == (3, 5)
    assert clip.frames[:2] == (90, 94)
    assert clip.frames[-1] == 149
    library_clip = spans(line, Sampling())[4]
    (again,) = spans(line, Sampling(), start_s=7.867, end_s=10.0)
    assert again.frames == library_clip.frames


def test_part_outside_the_video_is_refused():
    with pytest.raises(DecodeError, match=r"nothing from 20 s on to 22 s: the video shows 0\.000 to 10\.000 s"):
        spans(constant(300, 30), Sampling(), start_s=20, end_s=22)


def test_a_damaged_timestamp_is_refused_at_once():
    with pytest.raises(DecodeError, match=r"timestamps jump by 1000000 s after 0\.033 s"):
        plan_spans(timeline([0, 1 / 30, 1e6]), Sampling())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 0}, "at least 1 frame"),
        ({"fps": 0}, "above 0"),
        ({"fps": float("nan")}, "above 0"),
        ({"stride": 0}, "at least 1"),
        ({"hop_s": 0}, r"at least 0\.01"),
        ({"hop_s": float("inf")}, r"at least 0\.01"),
        ({"clips_per_video": 0}, "at least 1"),
        ({"clips_per_video": 2, "hop_s": 1}, "contradict"),
        ({"uniform": True, "stride": 4}, "no stride"),
        ({"segment_starts": True}, "belongs to uniform"),
    ],
)
def test_bad_policies_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**fields)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(stride=4),
        Sampling(uniform=True),
        Sampling(uniform=True, segment_starts=True),
        Sampling(hop_s=1),
        Sampling(clips_per_video=2),
    ],
)
def test_policies_survive_json(sampling):
    again = Sampling.from_dict(sampling.to_dict())
    assert again.to_dict() == sampling.to_dict()
    assert str(again) == str(sampling)


gaps = st.lists(st.floats(0.004, 2.0), min_size=1, max_size=200)
policies = st.builds(
    Sampling,
    frames=st.sampled_from([4, 16]),
    fps=st.sampled_from([2, 7.5, 25]),
    stride=st.none() | st.integers(1, 9),
    hop_s=st.none() | st.floats(0.3, 5),
)


@given(gaps, policies, st.floats(0, 10))
def test_properties_of_every_plan(steps, sampling, start):
    times = start + np.concatenate([[0], np.cumsum(steps[:-1])])
    line = Timeline(times, float(times[-1]) + steps[-1], 30, 64, 48, "h264")
    clips = spans(line, sampling)
    assert clips
    assert clips == sorted(clips, key=lambda c: c.start_s)
    assert len({c.start_s for c in clips}) == len(clips)
    for clip in clips:
        assert len(clip.frames) == sampling.frames
        assert list(clip.frames) == sorted(clip.frames)
        assert clip.frames[0] >= 0
        assert clip.frames[-1] < len(times)
        assert times[0] - 1e-9 <= clip.start_s < clip.end_s <= line.end_s + 1e-9
        # No frame from after the clip, none that had left the screen before it.
        assert times[clip.frames[-1]] <= clip.end_s + 2 * TOLERANCE_S
        shown_until = np.append(times[1:], line.end_s)
        assert shown_until[clip.frames[0]] >= clip.start_s - 1e-9
    if sampling.hop_s is None:
        # Everything is covered: windows touch or overlap, from the first frame to the last.
        assert clips[0].start_s == times[0]
        assert all(b.start_s <= a.end_s + 1e-6 for a, b in itertools.pairwise(clips))
        assert times[-1] < clips[-1].end_s + TOLERANCE_S
    else:
        assert line.end_s - clips[-1].end_s <= max(sampling.hop_s, max(steps)) + 2.1


@given(st.integers(1, 500), st.integers(1, 8))
def test_uniform_frames_are_strictly_inside_their_segments(frames, clip_frames):
    (clip,) = spans(constant(frames, 30), Sampling(frames=clip_frames, uniform=True))
    for i, index in enumerate(clip.frames):
        assert i * frames // clip_frames <= index <= (i + 1) * frames // clip_frames
