"""Procedurally generated videos: made of formulas alone, so nobody's pictures and nobody's licence.

Drawn as batches of tensors on any device. Axis letters as in the package: B clips, T frames,
C channels, H, W. Places are in parts of the frame: -1 to 1 from left to right and from top to bottom.

What is kept out of training is named beside what is trained on: `textures.HELD_OUT`,
`shapes.HELD_OUT` and `motions.HELD_OUT`.
"""

from procedural.dice import Dice
from procedural.labelled import LabelledClips, TaughtClips, labelled_clips, taught_clips
from procedural.scenes import random_clips

__all__ = ["Dice", "LabelledClips", "TaughtClips", "labelled_clips", "random_clips", "taught_clips"]
