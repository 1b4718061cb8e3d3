"""Presets: the views that papers publish, by name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from vmae_embed.cli.options import PRESET_NAMES
from vmae_embed.errors import UsageError
from vmae_embed.presets import PRESETS, find_preset
from vmae_embed.sampling import Sampling


def test_the_command_line_offers_all():
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize(("name", "clips"), [("k400", 5), ("ucf101", 5)])
def test_five_clips_at_stride_four_in_three_crops(name, clips):
    views = find_preset(name).views
    assert [(view.name, view.crop_at) for view in views] == [("1-centre", 0.5), ("1-start", 0.0), ("1-end", 1.0)]
    assert {view.sampling for view in views} == {Sampling(stride=4, clips_per_video=clips)}


def test_two_spreads_in_three_crops():
    views = find_preset("ssv2").views
    assert [view.name for view in views] == ["1-centre", "1-start", "1-end", "2-centre", "2-start", "2-end"]
    assert [view.sampling.segment_starts for view in views] == [False] * 3 + [True] * 3
    assert all(view.sampling.uniform for view in views)


def test_a_name_that_is_none():
    with pytest.raises(UsageError, match="preset='hmdb': give one of k400, ssv2, ucf101"):
        find_preset("hmdb")


def test_ucf_names_say_what_was_recorded_together():
    pattern = find_preset("ucf101").recording
    stem = PurePosixPath("UCF-101/HandstandPushups/v_HandStandPushups_g01_c04.avi").stem
    assert re.fullmatch(pattern, stem).group(1) == "v_HandStandPushups_g01"
    assert re.fullmatch(pattern, "holiday") is None
