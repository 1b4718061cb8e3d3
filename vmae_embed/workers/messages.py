"""What a decoding process is told, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Timeline
from vmae_embed.sampling import Sampling


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a decoding process needs to know.

    Attributes:
        sampling: how to cut clips.
        preprocessing: how to crop frames.
        decoder: one of `vmae_embed.decode.DECODERS`.
        timeout_s: seconds that a video may take, waiting for a free slot not counted; None for the default.
        slots: clips that its shared memory holds.
        exact_pixels: crop by way of each frame's whole RGB; see `vmae_embed.decode.cropping`.
    """

    sampling: Sampling
    preprocessing: Preprocessing
    decoder: str
    timeout_s: float | None
    slots: int
    exact_pixels: bool = False

    @property
    def slot_shape(self) -> tuple[int, int, int, int]:
        """``(T, H, W, 3)`` of one clip."""
        return (self.sampling.frames, *self.preprocessing.crop, 3)

    @property
    def memory_bytes(self) -> int:
        """Of all slots."""
        return self.slots * int(np.prod(self.slot_shape))


# From worker to parent. A `Started` makes void what the video gave before it.
@dataclass(frozen=True, slots=True)
class Ready:
    """The process is up."""


@dataclass(frozen=True, slots=True)
class Started:
    """A video is open; its timeline, without the frames' times."""

    timeline: Timeline


@dataclass(frozen=True, slots=True)
class ClipReady:
    """A clip lies in a slot, which is the parent's until it sends the number back."""

    span: ClipSpan
    slot: int


@dataclass(frozen=True, slots=True)
class Done:
    """The video is through."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The video failed."""

    stage: str
    reason: str
