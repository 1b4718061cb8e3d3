"""Decoding: a span of a video to uint8 frames, through one interface with several backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from vmae_embed.decode.base import Frame, Picture, Reader, Transform, read_clips
from vmae_embed.errors import TimelineMismatch, UsageError
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, FrameBatch, Timeline

__all__ = ["DECODERS", "Frame", "Picture", "Reader", "cropping", "decode_clips", "open_video", "read_clips"]

# `auto` is PyAV: it refuses least and, decoding only once, took half of decord's time a clip.
DECODERS = ("auto", "pyav", "decord")


def open_video(path: str, decoder: str = "auto", *, threads: int = 1, by_decoding: bool = False) -> Reader:
    """Open a video with a backend.

    Args:
        path: of a local file.
        decoder: one of `DECODERS`.
        threads: of FFmpeg; 0 lets it choose.
        by_decoding: learn the frames' times by decoding all of them.

    Raises:
        UsageError: no such backend.
        DecodeError: the file cannot be decoded; `DecoderRefused` if another backend may.
    """
    if decoder in ("auto", "pyav"):
        from vmae_embed.decode.pyav import PyAVReader

        return PyAVReader(path, threads=threads, by_decoding=by_decoding)
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
        on_timeline: told of the timeline before its first clip. If it is told again, the clips
            yielded until then are void.

    Raises:
        DecodeError: the file cannot be decoded as planned.
    """
    for by_decoding in (False, True):
        try:
            reader = open_video(path, decoder, threads=threads, by_decoding=by_decoding)
        except TimelineMismatch:
            if by_decoding:
                raise
            continue
        try:
            on_timeline(reader.timeline)
            yield from read_clips(reader, plan(reader.timeline), transform)
        except TimelineMismatch:
            if by_decoding:
                raise
        else:
            return
        finally:
            reader.close()
