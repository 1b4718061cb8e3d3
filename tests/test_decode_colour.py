"""HDR to SDR, against the figures that the recommendations print."""

from __future__ import annotations

import numpy as np
import pytest

from vmae_embed.decode.colour import HLG, PQ, compress, hlg_to_nits, nits_to_pq, pq_to_nits, to_sdr


def grey(signal):
    return np.full((2, 3, 3), round(signal * 65535), np.uint16)


# BT.2408-7, table 1: HDR reference white, and 18% grey, as percent of either signal.
@pytest.mark.parametrize(("nits", "pq", "hlg"), [(203, 0.58, 0.75), (26, 0.38, 0.38), (1000, 0.75, 1.0), (0, 0, 0)])
def test_levels_of_bt2408(nits, pq, hlg):
    assert nits_to_pq(np.array(float(nits))) == pytest.approx(pq, abs=0.005)
    assert hlg_to_nits(np.array(hlg)) == pytest.approx(nits, rel=0.02, abs=1e-6)


def test_pq_there_and_back():
    signal = np.linspace(0, 1, 1001)
    assert nits_to_pq(pq_to_nits(signal)) == pytest.approx(signal, abs=1e-6)
    assert pq_to_nits(np.array(1.0)) == pytest.approx(10_000)


def test_tone_curve_leaves_the_dark_and_ends_at_white():
    nits = np.linspace(0, 1000, 2001)
    bent = compress(nits)
    assert (np.diff(bent) > 0).all()
    assert bent[nits <= 80] == pytest.approx(nits[nits <= 80], rel=1e-6, abs=1e-6)
    assert bent[-1] == pytest.approx(203, rel=1e-3)
    assert compress(np.array(4000.0)) == pytest.approx(203, rel=1e-3)


@pytest.mark.parametrize(("transfer", "white", "grey_18"), [(PQ, 0.58, 0.38), (HLG, 0.75, 0.38)])
def test_greys_stay_grey_and_about_as_bright(transfer, white, grey_18):
    for signal, least, most in ((0, 0, 0), (grey_18, 90, 115), (white, 215, 240), (1.0, 255, 255)):
        pixels = to_sdr(grey(signal), transfer)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (2, 3, 3)
        assert int(np.ptp(pixels)) <= 1
        assert least <= pixels.mean() <= most


def test_colours_of_bt2020_that_bt709_has_not_are_clipped():
    green = np.zeros((1, 1, 3), np.uint16)
    green[..., 1] = round(0.58 * 65535)
    red, strongest, blue = to_sdr(green, PQ)[0, 0]
    assert (red, blue) == (0, 0)
    assert strongest > 200
