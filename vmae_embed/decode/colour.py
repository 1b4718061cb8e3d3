"""HDR to what the encoder was trained on: PQ and HLG pictures as an SDR display would show them.

Frames go to nits, through the tone curve of BT.2390 down to SDR white, from BT.2020's primaries to
BT.709's, and into BT.1886's gamma. Peak and white are fixed, not read from the file: a scene looks
the same whoever mastered it, and the same in every library.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Transfer characteristics as ITU-T H.273 (table 3) and FFmpeg's AVColorTransferCharacteristic number them.
PQ, HLG = 16, 18

# BT.2100, table 5: what HLG is nominally shown at; nearly all PQ is mastered for it, too. In nits (cd/m2).
_PEAK_NITS = 1000.0
# BT.2408, 2.2: diffuse white in HDR, which becomes the white of SDR.
_WHITE_NITS = 203.0
# BT.2087, annex 2: linear BT.2020 to linear BT.709.
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
# BT.1886, annex 1.
_DISPLAY_GAMMA = 2.4

# BT.2100, table 4.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def is_hdr(transfer: int) -> bool:
    """Tell whether a transfer characteristic is one of HDR's."""
    return transfer in (PQ, HLG)


def pq_to_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn PQ, 0 to 1, into nits (the EOTF of BT.2100, table 4)."""
    root = signal ** (1 / _M2)
    return np.asarray(10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1))


def nits_to_pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn nits into PQ, 0 to 1 (the inverse EOTF of BT.2100, table 4)."""
    power = (nits / 10_000) ** _M1
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)


def hlg_to_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn HLG, 0 to 1, into nits on a display of 1000.

    The inverse OETF of BT.2100, table 5, then its system gamma of 1.2, here on each channel by
    itself: greys are exact, and strong colours a little stronger.
    """
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return np.asarray(_PEAK_NITS * scene**1.2)


def compress(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bend 0 to 1000 nits into 0 to 203, leaving what is dark as it is (the EETF of BT.2390, 5.4.1)."""
    peak, white = nits_to_pq(np.array(_PEAK_NITS)), nits_to_pq(np.array(_WHITE_NITS))
    level = nits_to_pq(np.minimum(nits, _PEAK_NITS)) / peak
    top = white / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(level - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return pq_to_nits(np.where(level < knee, level, spline) * peak)


@lru_cache(maxsize=2)
def _to_light(transfer: int) -> NDArray[np.float32]:
    """``(65536,)``: a 16-bit signal to light, 1 for SDR white."""
    signal = np.arange(65536) / 65535
    nits = pq_to_nits(signal) if transfer == PQ else hlg_to_nits(signal)
    return np.asarray(compress(nits) / _WHITE_NITS, dtype=np.float32)


@lru_cache(maxsize=1)
def _to_signal() -> NDArray[np.uint8]:
    """``(65536,)``: light, 65535 for SDR white, to an 8-bit signal."""
    return np.asarray(np.rint(255 * (np.arange(65536) / 65535) ** (1 / _DISPLAY_GAMMA)), dtype=np.uint8)


def to_sdr(pixels: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Turn HDR pixels into SDR ones.

    Args:
        pixels: ``(H, W, 3)`` uint16 RGB, full range, of BT.2020's primaries.
        transfer: `PQ` or `HLG`.

    Returns:
        ``(H, W, 3)`` uint8 RGB. Colours that BT.709 does not have are clipped.
    """
    light = _to_light(transfer)[pixels] @ _TO_BT709.T
    sdr: NDArray[np.uint8] = _to_signal()[(np.clip(light, 0, 1) * 65535 + 0.5).astype(np.uint16)]
    return sdr
