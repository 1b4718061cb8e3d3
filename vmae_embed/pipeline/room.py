"""How much room on disk the tokens of a run will take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vmae_embed.errors import UsageError
from vmae_embed.library import bytes_of_tokens
from vmae_embed.plan import Plan
from vmae_embed.sampling import Sampling
from vmae_embed.workers import count_clips

# Videos whose headers are read, some milliseconds each; the others are taken to be like them.
_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class TokenRoom:
    """What tokens will take, and what there is.

    Attributes:
        clip_bytes: of one clip's tokens.
        clips: that a run will add, estimated; None where no video that was looked at tells.
        free: bytes of the disk that the library is on.
    """

    clip_bytes: int
    clips: int | None
    free: int

    @property
    def bytes(self) -> int | None:
        """Of all clips, estimated."""
        return None if self.clips is None else self.clips * self.clip_bytes

    def __str__(self) -> str:
        a_clip, free = f"{self.clip_bytes / 1e6:.2f} MB a clip", f"{self.free / 1e9:.1f} GB free"
        if self.bytes is None:
            return f"tokens: {a_clip}; how many clips there will be is not known; {free}"
        return f"tokens: {a_clip}; about {self.clips:,} clips, {self.bytes / 1e9:.2f} GB; {free}"

    def check(self, library: Path) -> None:
        """Refuse a run that the disk has no room for.

        Raises:
            UsageError: naming both sizes.
        """
        if self.bytes is not None and self.bytes > self.free:
            raise UsageError(
                f"{library}: tokens of about {self.clips:,} clips take {self.bytes / 1e9:.2f} GB, its disk has "
                f"{self.free / 1e9:.2f} GB free; give another disk, fewer clips (--clips-per-video, --hop) or a "
                "smaller model"
            )


def token_room(plan: Plan, sampling: Sampling, shape: tuple[int, int], library: Path) -> TokenRoom:
    """Estimate what the tokens of a plan's videos will take, by the headers of some of them.

    Args:
        plan: videos to extract, one or more.
        sampling: how clips are cut.
        shape: (N, D), of a clip; float16.
        library: directory of the library, which need not exist.
    """
    videos = [video for unit in plan.units for video in unit.videos]
    count = min(len(videos), _SAMPLE)
    sample = [videos[(2 * i + 1) * len(videos) // (2 * count)] for i in range(count)]
    counts = count_clips([video.path for video in sample], sampling)
    looked_at = [(video, clips) for video, clips in zip(sample, counts, strict=True) if clips is not None]
    clips = None
    if looked_at:
        # Clips go with the length of a video, which its size stands for; but for so many clips a video.
        is_by_video = sampling.uniform or sampling.clips_per_video is not None
        share = len(looked_at) / len(videos) if is_by_video else sum(video.size for video, _ in looked_at) / plan.bytes
        clips = round(sum(found for _, found in looked_at) / share)
    place = next(folder for folder in (library, *library.absolute().parents) if folder.is_dir())
    return TokenRoom(bytes_of_tokens(shape), clips, shutil.disk_usage(place).free)
