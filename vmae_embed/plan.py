"""Which videos are left to do, and in which units.

Units are cut from the videos that no complete unit holds yet, in order of id, each closed as
soon as it is large enough. So what a unit holds never depends on the units before or after it:
after a kill, the units left are cut exactly as they would have been, and give the same rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vmae_embed.errors import SourceError
from vmae_embed.library import Held
from vmae_embed.records import Failure, Video

# Few videos: small units, so that every decoding process has one. Many: fewer files to open later.
_UNITS_AIMED_AT = 64
_MOST_VIDEOS_A_UNIT = 64
_MOST_BYTES_A_UNIT = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unit:
    """The videos of one shard.

    Attributes:
        name: of the shard; follows from the videos' ids and fingerprints.
        videos: sorted by id.
    """

    name: str
    videos: tuple[Video, ...]


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
        units: to extract, in order.
        held: videos that the library already holds, as clips or as failures.
        stale: ids of held videos to drop first: their files changed, or are to be tried again.
        vanished: ids of held videos that no source lists, or whose listed files are gone.
        failures: to record: listed files that cannot be read.
    """

    units: list[Unit] = field(default_factory=list)
    held: int = 0
    stale: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)

    @cached_property
    def videos(self) -> int:
        """How many to extract or to record as failed."""
        return sum(len(unit.videos) for unit in self.units) + len(self.failures)

    @cached_property
    def bytes(self) -> int:
        """Of the files to extract."""
        return sum(video.size for unit in self.units for video in unit.videos)


def make_plan(
    videos: Sequence[Video],
    failures: Sequence[Failure],
    held: Mapping[str, Held],
    *,
    retry_failed: bool = False,
) -> Plan:
    """Compare what the sources list with what the library holds.

    Args:
        videos: sorted by id.
        failures: listed files that cannot be read.
        held: of the library.
        retry_failed: try failed videos again though their files did not change.

    Raises:
        SourceError: a listed video has the id of another file that the library holds.
    """
    plan = Plan(vanished=set(held) - {video.id for video in videos})
    left = []
    for video in videos:
        known = held.get(video.id)
        if known is not None and known.fingerprint == video.fingerprint and not (known.failed and retry_failed):
            plan.held += 1
            continue
        if known is not None:
            if known.path != video.path and known.fingerprint != video.fingerprint and os.path.exists(known.path):
                raise SourceError(
                    f"{video.path} has the id {video.id}, which the library holds from {known.path}; "
                    "name a folder above both, or give a manifest with a column video_id"
                )
            plan.stale.add(video.id)
        left.append(video)
    for failure in failures:
        known = held.get(failure.video_id)
        if known is None or (known.failed and known.fingerprint != failure.fingerprint):
            plan.failures.append(failure)
            plan.stale |= {failure.video_id} & set(held)
        elif known.failed:
            plan.held += 1
        else:
            continue  # its clips outlive the file until they are pruned
        plan.vanished.discard(failure.video_id)
    plan.units = _cut(left, most_videos=min(max(len(videos) // _UNITS_AIMED_AT, 1), _MOST_VIDEOS_A_UNIT))
    return plan


def _cut(videos: Sequence[Video], most_videos: int) -> list[Unit]:
    units = []
    current: list[Video] = []
    size = 0
    for video in videos:
        current.append(video)
        size += video.size
        if len(current) >= most_videos or size >= _MOST_BYTES_A_UNIT:
            units.append(_unit(current))
            current, size = [], 0
    return [*units, _unit(current)] if current else units


def _unit(videos: Sequence[Video]) -> Unit:
    return Unit(unit_name((video.id, video.fingerprint) for video in videos), tuple(videos))


def unit_name(members: Iterable[tuple[str, str]]) -> str:
    """Name a unit after the ids and fingerprints of its videos."""
    digest = hashlib.sha256()
    for video_id, fingerprint in members:
        digest.update(f"{video_id}\0{fingerprint}\0".encode())
    return digest.hexdigest()[:16]
