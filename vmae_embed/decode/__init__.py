"""Decoding: a span of a video to uint8 frames, through one interface with several backends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vmae_embed.decode.base import Frame, Picture, Reader, Stack, Transform, read_clips
from vmae_embed.errors import DecodeError, TimelineMismatch, UsageError
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, FrameBatch, Timeline, fingerprint

__all__ = [
    "DECODERS",
    "Frame",
    "Picture",
    "Reader",
    "check_decoder",
    "check_unchanged",
    "cropping",
    "decode_clips",
    "open_video",
    "read_clips",
]

# `auto` is PyAV on the CPU: it refuses least and takes about half of decord's time a clip. nvdec
# has to be asked for as long as nobody has measured which of both a machine is better off with.
DECODERS = ("auto", "pyav", "nvdec", "decord")


def check_decoder(decoder: str, *, device: int = 0) -> None:
    """See that a backend can be had on this machine, before any video is tried with it.

    Args:
        decoder: one of `DECODERS`.
        device: number of the GPU that nvdec would decode on.

    Raises:
        UsageError: no such backend, or no GPU for it.
    """
    if decoder not in DECODERS:
        raise UsageError(f"decoder={decoder!r}: choose one of {', '.join(DECODERS)}")
    if decoder == "nvdec":
        from vmae_embed.decode.nvdec import check_device

        check_device(device)


def check_unchanged(path: str, embedded: str) -> None:
    """See that a file still is what a library's clips were cut from, before they are decoded again.

    Args:
        path: of the video file.
        embedded: fingerprint of the file that was embedded; empty if that is not known.

    Raises:
        DecodeError: the file is gone, or has changed.
    """
    try:
        status = os.stat(path)
    except OSError:
        raise DecodeError(f"{path} is gone", stage="open") from None
    if embedded and embedded != fingerprint(status.st_size, status.st_mtime_ns):
        raise DecodeError(f"{path} has changed since it was extracted; run extract again", stage="open")


def open_video(
    path: str, decoder: str = "auto", *, threads: int = 1, by_decoding: bool = False, device: int = 0
) -> Reader:
    """Open a video with a backend.

    Args:
        path: of a local file.
        decoder: one of `DECODERS`.
        threads: of FFmpeg; 0 lets it choose.
        by_decoding: learn the frames' times by decoding all of them.
        device: number of the GPU that nvdec decodes on; see `check_decoder`.

    Raises:
        UsageError: no such backend.
        DecodeError: the file cannot be decoded; `DecoderRefused` if another backend may.
    """
    if decoder in ("auto", "pyav"):
        from vmae_embed.decode.pyav import PyAVReader

        return PyAVReader(path, threads=threads, by_decoding=by_decoding)
    if decoder == "nvdec":
        from vmae_embed.decode.nvdec import acceleration
        from vmae_embed.decode.pyav import PyAVReader

        return PyAVReader(path, by_decoding=by_decoding, hwaccel=acceleration(device))
    if decoder == "decord":
        from vmae_embed.decode.decord import DecordReader

        return DecordReader(path, threads=threads, by_decoding=by_decoding)
    raise UsageError(f"decoder={decoder!r}: choose one of {', '.join(DECODERS)}")


def cropping(preprocessing: Preprocessing, *, exact_pixels: bool = False) -> Transform:
    """Return what `decode_clips` applies to pictures to make them the encoder's.

    Args:
        preprocessing: of the checkpoint.
        exact_pixels: go by way of the whole picture's RGB, as transformers does. The pixels of the
            fast path are a few grey levels off, by other roundings and a coarser colour plane.
    """
    if exact_pixels:
        return lambda picture: preprocessing(picture.rgb())
    return lambda picture: picture.cropped(preprocessing)


def decode_clips(
    path: str,
    plan: Callable[[Timeline], Iterable[ClipSpan]],
    transform: Transform,
    *,
    decoder: str = "auto",
    threads: int = 1,
    device: int = 0,
    stack: Stack = np.stack,
    on_timeline: Callable[[Timeline], None] = lambda _: None,
) -> Iterator[FrameBatch]:
    """Decode the clips that a plan cuts from a video.

    Packets announce when frames are shown, at the cost of reading the file. Where the decoder
    turns out to show others, the video is begun anew with times learned by decoding it.

    Args:
        path: of a local file.
        plan: the clips of a video, given its timeline.
        transform: what is kept of a picture, such as `cropping` makes; called once for each.
        decoder: one of `DECODERS`.
        threads: of FFmpeg; 0 lets it choose.
        device: number of the GPU that nvdec decodes on.
        stack: makes a clip's T frames one array.
        on_timeline: told of the timeline before its first clip. If it is told again, the clips
            yielded until then are void.

    Raises:
        DecodeError: the file cannot be decoded as planned.
    """
    for by_decoding in (False, True):
        try:
            reader = open_video(path, decoder, threads=threads, by_decoding=by_decoding, device=device)
        except TimelineMismatch:
            if by_decoding:
                raise
            continue
        try:
            on_timeline(reader.timeline)
            yield from read_clips(reader, plan(reader.timeline), transform, stack)
        except TimelineMismatch:
            if by_decoding:
                raise
        else:
            return
        finally:
            reader.close()
