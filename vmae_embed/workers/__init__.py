"""Decoding processes: what they are told (`messages`), what they run (`child`), who runs them (`pool`)."""

from vmae_embed.workers.messages import WorkerConfig
from vmae_embed.workers.pool import (
    ClipDecoded,
    DecodePool,
    Event,
    UnitDone,
    VideoDone,
    VideoFailed,
    VideoStarted,
)

__all__ = [
    "ClipDecoded",
    "DecodePool",
    "Event",
    "UnitDone",
    "VideoDone",
    "VideoFailed",
    "VideoStarted",
    "WorkerConfig",
]
