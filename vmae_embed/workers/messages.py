"""What a decoding process is told, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Timeline
from vmae_embed.sampling import Sampling

# With this a decoding process says that its video took too much memory; no interpreter or shell uses it.
EXIT_OUT_OF_MEMORY = 90


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a decoding process needs to know.

    Attributes:
        sampling: how to cut clips.
        preprocessing: how to crop frames.
        decoder: one of `vmae_embed.decode.DECODERS`.
        exact_pixels: crop by way of each frame's whole RGB; see `vmae_embed.decode.cropping`.
        timeout_s: seconds that a video may take, waiting for a free slot not counted; None for the default.
        slots: clips that its shared memory holds.
        video_memory: bytes that decoding one video may take; None for as many as there are.
        gpu: number of the GPU that nvdec decodes on.
    """

    sampling: Sampling
    preprocessing: Preprocessing
    decoder: str
    exact_pixels: bool
    timeout_s: float | None
    slots: int
    video_memory: int | None
    gpu: int = 0

    @property
    def slot_shape(self) -> tuple[int, int, int, int]:
        """``(T, H, W, 3)`` of one clip."""
        return (self.sampling.frames, *self.preprocessing.crop, 3)

    @property
    def slot_bytes(self) -> int:
        """Of one clip."""
        return int(np.prod(self.slot_shape))

    @property
    def memory_bytes(self) -> int:
        """Of all slots."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a video cost the process.

    Attributes:
        work_s: seconds spent on it.
        wait_s: seconds that it waited for a free slot meanwhile.
        resident: bytes of memory that the process holds after it; 0 where the system does not tell.
    """

    work_s: float
    wait_s: float
    resident: int


# From worker to parent. A `Started` makes void what the video gave before it.
@dataclass(frozen=True, slots=True)
class Ready:
    """The process is up, and holds so many bytes of memory."""

    resident: int


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

    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The video failed."""

    stage: str
    reason: str
    usage: Usage
