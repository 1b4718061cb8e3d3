"""Decoding on an NVIDIA GPU: FFmpeg's own NVDEC under the PyAV backend.

FFmpeg still reads, parses and orders; only the pictures' data go to the device, and only wanted
pictures come back. So timeline, seeks, damage and colour stay those of the one reader, where
PyNvVideoCodec or torchcodec would each bring their own. What the device does not decode (an old
codec, 4:4:4) FFmpeg decodes on the CPU, to the same pictures.
"""

from __future__ import annotations

import av
from av.codec.hwaccel import HWAccel

from vmae_embed.errors import UsageError


def acceleration(device: int) -> HWAccel:
    """Return what makes `av.open` decode on the GPU of this number, and leave frames there."""
    return HWAccel("cuda", device=str(device), allow_software_fallback=True, is_hw_owned=True)


def check_device(device: int) -> None:
    """See that there is such a GPU.

    Raises:
        UsageError: there is none, or its driver does not answer.
    """
    try:
        acceleration(device).create(av.Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError, ValueError) as error:
        raise UsageError(
            f"decoder='nvdec': FFmpeg finds no NVIDIA GPU of number {device} with a driver; take decoder='pyav'"
        ) from error
