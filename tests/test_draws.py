"""Draws take from as many videos as they can."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmae_embed.draws import sample_rows


@given(
    videos=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    count=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_rows_are_of_as_many_videos_as_can_be(videos, count, seed):
    codes = np.array(videos)
    rows = np.flatnonzero(codes != 6) if set(videos) != {6} else np.arange(len(codes))
    drawn = sample_rows(rows, codes, count, np.random.default_rng(seed))
    assert len(drawn) == min(count, len(rows))
    assert set(drawn.tolist()) <= set(rows.tolist())
    assert (np.diff(drawn) > 0).all()
    held = {video: int((codes[rows] == video).sum()) for video in codes[rows].tolist()}
    taken = {video: int((codes[drawn] == video).sum()) for video in held}
    # No video gives a clip more while another could still give one.
    most = max(taken.values())
    assert all(taken[video] >= min(most - 1, held[video]) for video in held)
