"""Published protocols by name: how clips are cut along time, and where each is cropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmae_embed.errors import UsageError
from vmae_embed.sampling import Sampling

# Places along the longer side; the centre first, which is what a library by itself has.
_CROPS = {"centre": 0.5, "start": 0.0, "end": 1.0}


@dataclass(frozen=True, slots=True)
class View:
    """One look at a video.

    Attributes:
        name: of its directory.
        sampling: how clips are cut; frames a clip are the encoder's to say.
        crop_at: as `vmae_embed.preprocess.Preprocessing.crop_at`.
    """

    name: str
    sampling: Sampling
    crop_at: float


@dataclass(frozen=True, slots=True)
class Preset:
    """How a data set's videos are looked at when an encoder is judged by them.

    Attributes:
        name: of the data set.
        samplings: how clips are cut along time; each clip is cropped three times.
        recording: pattern of file names' stems whose first group says what was cut from one recording;
            None where each file is a recording of its own.
    """

    name: str
    samplings: tuple[Sampling, ...]
    recording: str | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """All of them; the first is the first sampling's, cropped in the centre."""
        return tuple(
            View(f"{number}-{place}", sampling, crop_at)
            for number, sampling in enumerate(self.samplings, start=1)
            for place, crop_at in _CROPS.items()
        )


# VideoMAE's tests (arXiv:2203.12602, A.1; scripts/*/finetune.sh, kinetics.py and ssv2.py of MCG-NJU/VideoMAE): clips of
# 16 frames, five at stride 4 (Kinetics, UCF101) or two spread over the whole video (SSv2); three crops of each.
# UCF101 (arXiv:1212.0402) cuts 25 groups a class from one recording each: v_ApplyLipstick_g07_c02.avi.
PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("k400", (Sampling(stride=4, clips_per_video=5),)),
        Preset("ssv2", (Sampling(uniform=True), Sampling(uniform=True, segment_starts=True))),
        Preset("ucf101", (Sampling(stride=4, clips_per_video=5),), recording=r"(v_.+_g\d+)_c\d+"),
    )
}


def find_preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"preset={name!r}: give one of {', '.join(PRESETS)}")
    return PRESETS[name]
