"""Decoding processes.

What they are told (`messages`), what they run (`child`), who runs them (`pool`), how they start (`interpreter`);
and how many clips there will be (`counting`).
"""

from vmae_embed.workers.counting import count_clips
from vmae_embed.workers.interpreter import connect_to_parent, describe_exit, end_process, start_interpreter, tell
from vmae_embed.workers.messages import Usage, WorkerConfig
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
    "Usage",
    "VideoDone",
    "VideoFailed",
    "VideoStarted",
    "WorkerConfig",
    "connect_to_parent",
    "count_clips",
    "describe_exit",
    "end_process",
    "start_interpreter",
    "tell",
]
