"""What the stages of the pipeline say of themselves while they run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vmae_embed.records import Failure


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where time went. The stages run beside each other, so these sum to more than the wall time.

    Attributes:
        decode_s: seconds of decoding processes at work, of all of them together.
        blocked_s: seconds that they waited for the encoder to take a clip.
        transfer_s: seconds of copying clips into batches.
        encode_s: seconds of the encoder at work, the way to the device and back included.
        starved_s: seconds that it waited for a batch.
        write_s: seconds of writing shards.
    """

    decode_s: float = 0.0
    blocked_s: float = 0.0
    transfer_s: float = 0.0
    encode_s: float = 0.0
    starved_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Progress:
    """What has happened since the last one.

    Attributes:
        embedded: clips that have been through the encoder.
        committed: clips that now lie in a shard.
        videos: that the library now accounts for, by clips or as failures.
        bytes: of the videos' files, as far as their clips have been through the encoder.
        failures: of those videos.
        times: where time went.
    """

    embedded: int = 0
    committed: int = 0
    videos: int = 0
    bytes: int = 0
    failures: tuple[Failure, ...] = ()
    times: StageTimes = StageTimes()
