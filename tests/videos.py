"""Real encoded videos for tests, made with PyAV; every frame carries its own index.

`write_video` paints, encodes and muxes. `read_index` reads a frame's index back from decoded
RGB, after any lossy codec and any resize of the whole picture. The other functions make the odd
files that decoders get wrong.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

# SVT-AV1 greets on stderr at any level above 1, and listens to nothing but this.
os.environ.setdefault("SVT_LOG", "1")

BITS = 12
# The clock of MPEG-TS; exact for every common frame rate and for milliseconds.
CLOCK = 90_000


class Codec(NamedTuple):
    """What writes a small file with an encoder quickly and quietly."""

    suffix: str
    pix_fmt: str
    options: Mapping[str, str]


_VPX = {"deadline": "realtime", "cpu-used": "8", "b": "2M", "auto-alt-ref": "0"}
CODECS: dict[str, Codec] = {
    "libx264": Codec(".mp4", "yuv420p", {"preset": "veryfast"}),
    "libx265": Codec(".mp4", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=error"}),
    "libsvtav1": Codec(".mp4", "yuv420p", {"preset": "10"}),
    "libvpx": Codec(".webm", "yuv420p", _VPX),
    "libvpx-vp9": Codec(".webm", "yuv420p", _VPX),
    "mpeg4": Codec(".avi", "yuv420p", {"b": "2M"}),
    "mpeg2video": Codec(".mpg", "yuv420p", {"b": "2M", "bf": "2"}),
    "prores_ks": Codec(".mov", "yuv422p10le", {}),
    "mjpeg": Codec(".avi", "yuvj420p", {}),
    "ffv1": Codec(".mkv", "yuv420p", {}),
}


def paint(index: int, size: tuple[int, int]) -> Frame:
    """Paint frame ``index``: a texture that moves, under two rows of blocks.

    The rows fill the top quarter; the first spells the index in binary, the second inverts it.
    """
    width, height = size
    x = np.arange(width)[None, :]
    y = np.arange(height)[:, None]
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = 128 + 60 * np.sin((x + 3 * index) / 9)
    frame[..., 1] = 128 + 60 * np.sin((y + 2 * index) / 7)
    diagonal = 128 + 60 * np.sin((np.arange(width + height) + 5 * index) / 13)
    frame[..., 2] = diagonal.astype(np.uint8)[x + y]
    for row in range(2):
        for bit in range(BITS):
            white = (index >> (BITS - 1 - bit) & 1) ^ row
            frame[_block(row, bit, size)] = 255 * white
    return frame


def read_index(frame: NDArray[Any]) -> int:
    """Read the index of an upright ``(H, W, 3)`` RGB frame of at least 96 x 64 pixels.

    Raises:
        ValueError: there is no barcode in it.
    """
    height, width = frame.shape[:2]
    rows = []
    for row in range(2):
        blocks = [frame[_block(row, bit, (width, height), inset=0.25)] for bit in range(BITS)]
        rows.append(int("".join("1" if block.mean() > 127 else "0" for block in blocks), 2))
    if rows[0] ^ rows[1] != 2**BITS - 1:
        raise ValueError(f"no barcode: the rows read {rows[0]:0{BITS}b} and {rows[1]:0{BITS}b}")
    return rows[0]


def _block(row: int, bit: int, size: tuple[int, int], inset: float = 0.0) -> tuple[slice, slice]:
    column, line = size[0] / BITS, size[1] / 8
    return (
        slice(round((row + inset) * line), round((row + 1 - inset) * line)),
        slice(round((bit + inset) * column), round((bit + 1 - inset) * column)),
    )


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    fps: Fraction | int = 30,
    frames: int = 60,
    size: tuple[int, int] = (160, 96),
    pix_fmt: str | None = None,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pts: Sequence[float | Fraction] | None = None,
    rotation: int | None = None,
    start_s: float | Fraction = 0.0,
    audio: bool = False,
    first_index: int = 0,
) -> Path:
    """Encode a video whose frames say which they are.

    Args:
        path: its suffix picks the container.
        codec: FFmpeg's name of an encoder, best one of `CODECS`.
        fps: frames a second.
        frames: how many; ``pts`` overrides it.
        size: width and height as displayed.
        pix_fmt: what is encoded; the codec's own in `CODECS` unless given.
        options: of the encoder; a keyframe comes every 24 frames unless ``g`` is given.
        container_options: of the muxer, such as ``{"movflags": "faststart"}``.
        pts: presentation time of each frame in seconds, ascending, for a variable frame rate.
        rotation: degrees counter-clockwise by which a player turns the stored picture, which is
            stored turned the other way, as telephones do. MP4 and MOV only.
        start_s: added to the time of every frame; sound still starts at zero.
        audio: add a tone as long as the video.
        first_index: index painted on the first frame.
    """
    known = CODECS.get(codec, Codec(path.suffix, "yuv420p", {}))
    rate = Fraction(fps)
    times = [i / rate for i in range(frames)] if pts is None else [Fraction(time) for time in pts]
    # Only a constant rate fits AVI, and MPEG-4 part 2 takes no clock finer than 1/65535 s.
    time_base = 1 / rate if pts is None and not start_s else Fraction(1, CLOCK)
    ticks = [round((time + Fraction(start_s)) / time_base) for time in times]
    durations = [after - before for before, after in pairwise(ticks)] + [round(1 / rate / time_base)]
    quarter_turns = (rotation or 0) // 90

    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        encoder_options = {"g": "24", **known.options, **(options or {})}
        stream = container.add_stream(codec, rate=rate, options=encoder_options)
        stream.height, stream.width = np.rot90(paint(0, size), -quarter_turns).shape[:2]
        stream.pix_fmt = pix_fmt or known.pix_fmt
        stream.codec_context.time_base = time_base
        if audio:
            _mux_tone(container, float((ticks[-1] + durations[-1]) * time_base))
        for i, (tick, duration) in enumerate(zip(ticks, durations, strict=True)):
            picture = np.rot90(paint(first_index + i, size), -quarter_turns)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.duration, frame.time_base = tick, duration, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if rotation is not None:
        _patch_rotation(path, quarter_turns)
    return path


def _mux_tone(container: Any, seconds: float) -> None:
    rate = 48_000
    # The silence that AAC and MP3 begin with would shift the picture in AVI.
    name = {"webm": "libopus", "mp3": "libmp3lame", "avi": "pcm_s16le"}.get(container.format.name, "aac")
    stream = container.add_stream(name, rate=rate)
    stream.layout = "mono"
    tone = np.sin(np.arange(round(seconds * rate)) * (2 * np.pi * 440 / rate)).astype(np.float32) / 4
    for at in range(0, len(tone), 1024):
        frame = av.AudioFrame.from_ndarray(tone[None, at : at + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _patch_rotation(path: Path, quarter_turns: int) -> None:
    """Write the matrix of the first track (ISO 14496-12, 8.3.2); PyAV sets it only since 18."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][-quarter_turns % 4]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + (44 if data[data.index(b"tkhd") + 4] == 0 else 56)
    struct.pack_into(">9i", data, at, cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def edit_list(path: Path, start_s: float, **video: Any) -> Path:
    """Write an MP4 whose edit list starts the show ``start_s`` seconds into the media.

    The frames before that are in the file, flagged to be decoded and thrown away. What is left
    starts at zero.
    """
    write_video(path, **video)
    data = bytearray(path.read_bytes())
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    at = data.index(b"elst")
    version_and_flags, entries, duration, media_time = struct.unpack_from(">IIIi", data, at + 4)
    assert (version_and_flags, entries) == (0, 1), "not the one short edit that FFmpeg writes"
    duration -= round(start_s * movie_scale)
    struct.pack_into(">Ii", data, at + 12, duration, media_time + round(start_s * media_scale))
    path.write_bytes(data)
    return path


def two_video_streams(path: Path, sizes: Sequence[tuple[int, int]] = ((160, 96), (320, 192))) -> Path:
    """Write 30 frames of each size into one file; stream n's indices start at 1000 n."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=30, options={"preset": "veryfast"}) for _ in sizes]
        for stream, (stream.width, stream.height) in zip(streams, sizes, strict=True):
            stream.pix_fmt = "yuv420p"
        for i in range(30):
            for n, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
                frame = av.VideoFrame.from_ndarray(paint(1000 * n + i, size), format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def cut_ts_mid_gop(path: Path, first_frame: int = 10, **video: Any) -> Path:
    """Write an MPEG-TS, then cut it off before a frame that no keyframe comes with.

    Frames up to the next keyframe, by default number 24, cannot be decoded.
    """
    write_video(path, **{"options": {"bf": "0", "sc_threshold": "0"}, **video})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert packets[first_frame].pos is not None
    path.write_bytes(path.read_bytes()[packets[first_frame].pos :])
    return path


def bframes_avi(path: Path, **video: Any) -> Path:
    """Write H.264 with B-frames into AVI, which stores no presentation times.

    FFmpeg makes them up: those of the decoded frames are not even in order.
    """
    return write_video(path, **{"options": {"bf": "2", "b-adapt": "0"}, **video})


def vp8_altref(path: Path, **video: Any) -> Path:
    """Write VP8 in which every 12th packet, from number 6 on, shows nothing.

    libvpx makes such alternate reference frames in two passes only, for which PyAV has no way in.
    So the bit that says "show" is cleared instead (RFC 6386, 9.1).
    """
    write_video(path, **{"codec": "libvpx", **video})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data, at = bytearray(path.read_bytes()), 0
    for i, packet in enumerate(packets):
        at = data.index(packet, at)
        if i % 12 == 6:
            data[at] &= ~(1 << 4)
        at += len(packet)
    path.write_bytes(data)
    return path


def write_audio_only(path: Path, seconds: float = 1.0) -> Path:
    """Write a tone without a picture."""
    with av.open(str(path), "w") as container:
        _mux_tone(container, seconds)
    return path


def attached_picture(path: Path, seconds: float = 1.0) -> Path:
    """Write an MP3 with cover art, which FFmpeg reports as a video stream of one frame."""
    assert path.suffix == ".mp3"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 160, 96, "yuvj420p"
        _mux_tone(container, seconds)
        cover_frame = av.VideoFrame.from_ndarray(paint(0, (160, 96)), format="rgb24")
        container.mux(cover.encode(cover_frame))
        container.mux(cover.encode())
    return path


def truncate(path: Path, keep: float) -> Path:
    """Copy the first ``keep`` of a file, 0 to 1, beside it."""
    data = path.read_bytes()
    copy = path.with_stem(f"{path.stem}_first{keep:g}")
    copy.write_bytes(data[: round(len(data) * keep)])
    return copy


def flip_bits(path: Path, n: int, seed: int, skip: float = 0.2) -> Path:
    """Copy a file beside it with ``n`` bits flipped, none of them in its first ``skip``, 0 to 1."""
    data = bytearray(path.read_bytes())
    for bit in random.Random(seed).sample(range(round(len(data) * skip) * 8, len(data) * 8), n):
        data[bit // 8] ^= 1 << bit % 8
    copy = path.with_stem(f"{path.stem}_flipped{n}_{seed}")
    copy.write_bytes(data)
    return copy


def garbage(path: Path, size: int = 20_000) -> Path:
    """Write noise that is no file of any kind."""
    path.write_bytes(random.Random(0).randbytes(size))
    return path
