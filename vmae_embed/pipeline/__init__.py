"""Units in, shards out: on one device (`run`), or on several with a process for each (`devices`)."""

from vmae_embed.pipeline.devices import EncoderRecipe, run_on_devices
from vmae_embed.pipeline.progress import Progress, StageTimes
from vmae_embed.pipeline.room import TokenRoom, token_room
from vmae_embed.pipeline.run import SLOTS, ClipEncoder, run_units
from vmae_embed.pipeline.sizing import decoding_processes

__all__ = [
    "SLOTS",
    "ClipEncoder",
    "EncoderRecipe",
    "Progress",
    "StageTimes",
    "TokenRoom",
    "decoding_processes",
    "run_on_devices",
    "run_units",
    "token_room",
]
