"""Records: the fragment that names a clip, and what identifies a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_embed.records import Failure, Timeline, Video, clip_id, split_fragment


def test_a_clip_id_is_a_media_fragment_in_milliseconds():
    assert clip_id("a/b.mp4", 12, 14.1333) == "a/b.mp4#t=12.000,14.133"
    assert clip_id("a.mp4", 0, 16 / 7.5) == "a.mp4#t=0.000,2.133"
    assert clip_id("a.mp4", 123456.7, 123458) == "a.mp4#t=123456.700,123458.000"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.mp4", ("a.mp4", None, None)),
        ("a.mp4#t=3,5", ("a.mp4", 3.0, 5.0)),
        ("a.mp4#t=3", ("a.mp4", 3.0, None)),
        ("a.mp4#t=,5.25", ("a.mp4", 0.0, 5.25)),
        ("a.mp4#t=0,0.5", ("a.mp4", 0.0, 0.5)),
        # What is no fragment is part of the name.
        ("a.mp4#t=", ("a.mp4#t=", None, None)),
        ("a.mp4#t=,", ("a.mp4#t=,", None, None)),
        ("a.mp4#t=x,5", ("a.mp4#t=x,5", None, None)),
        ("a.mp4#t=-1,5", ("a.mp4#t=-1,5", None, None)),
        ("a.mp4#t=1,2,3", ("a.mp4#t=1,2,3", None, None)),
        ("a.mp4#xywh=1,2,3,4", ("a.mp4#xywh=1,2,3,4", None, None)),
        ("", ("", None, None)),
        # Only the last one is the fragment.
        ("a#t=1,2.mp4#t=3,5", ("a#t=1,2.mp4", 3.0, 5.0)),
        ("two\nlines.mp4#t=3,5", ("two\nlines.mp4", 3.0, 5.0)),
    ],
)
def test_fragments_are_split_from_names(text, parts):
    assert split_fragment(text) == parts


milliseconds = st.integers(0, 10**9)


@given(st.text(), milliseconds, milliseconds)
def test_every_clip_id_reads_back(video_id, start, end):
    assert split_fragment(clip_id(video_id, start / 1000, end / 1000)) == (video_id, start / 1000, end / 1000)


@given(st.text())
def test_splitting_loses_nothing(text):
    video, start, end = split_fragment(text)
    assert text.startswith(video)
    assert (video == text) == (start is None and end is None)


def test_a_fingerprint_changes_with_size_and_with_time():
    video = Video("a.mp4", "/a.mp4", 10, 20)
    assert video.fingerprint == "10-20"
    others = [dataclasses.replace(video, size=11), dataclasses.replace(video, mtime_ns=21)]
    assert video.fingerprint not in [other.fingerprint for other in others]


def test_a_duration_counts_from_the_first_frame():
    assert Timeline(np.array([0.5, 1.0]), 1.5, 2, 64, 48, "h264").duration_s == 1.0


@pytest.mark.parametrize("record", [Video("a", "/a", 1, 2), Failure("a", "/a", "open", "no", 0.0, "1-2")])
def test_records_cannot_be_changed(record):
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'path'"):
        record.path = "/b"
