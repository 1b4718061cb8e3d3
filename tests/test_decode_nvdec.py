"""What of NVDEC can be tried without a GPU, and, with one, that its frames are the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import videos
from vmae_embed.decode import check_decoder, cropping, open_video
from vmae_embed.decode.nvdec import acceleration
from vmae_embed.errors import UsageError
from vmae_embed.preprocess import Preprocessing

CROP = Preprocessing(64, None, (64, 64), 2, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said_before_the_run():
    with pytest.raises(UsageError, match=r"nvdec.*no NVIDIA GPU of number 0.*take decoder='pyav'"):
        check_decoder("nvdec")


def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UsageError, match="no NVIDIA GPU of number 99"):
        check_decoder("nvdec", device=99)


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_the_others_need_nothing(decoder):
    check_decoder(decoder)


def test_unknown_decoder_is_refused():
    with pytest.raises(UsageError, match="choose one of auto, pyav, nvdec, decord"):
        check_decoder("ffmpeg")


def test_frames_stay_on_the_device_until_they_are_wanted():
    assert acceleration(1).is_hw_owned
    assert acceleration(1).device_id == 1


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_frames_are_those_of_the_cpu(tmp_path, codec):
    path = str(videos.write_video(tmp_path / f"v{videos.CODECS[codec].suffix}", codec=codec, size=(320, 192)))
    wanted = [0, 1, 17, 42, 59]
    crop = cropping(CROP)
    for ours, theirs in zip(
        open_video(path, "nvdec").frames(wanted), open_video(path, "pyav").frames(wanted), strict=True
    ):
        assert videos.read_index(ours.rgb()) == videos.read_index(theirs.rgb())
        assert np.abs(crop(ours).astype(int) - crop(theirs)).mean() < 2
