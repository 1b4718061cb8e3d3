"""The other half of training: asking the pooled embedding what moved how, and what it looked like.

Reconstruction alone, at this size and in these hours, leaves mean-pooled features that say more of a
clip's backdrop than of what happens before it. The generator knows what happens, so it may ask: by
which kind of path, turning and sizing the thing moved, where it was in each frame, which surface and
outline it had, and of what colour it was. As published VideoMAEs are fine-tuned on labels that people
gave, this one is taught by labels that the generator gives. Beside them it is asked for two classical
descriptors of the pixels, as MaskFeat is for histograms of gradients (Wei et al. 2022, arXiv:2112.09133):
where and when frames differ, and how fine surfaces are. The questions' heads are thrown away.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from descriptors import fineness, frame_difference
from masked_autoencoder import MEAN, STD, encode, take, tubelets
from procedural import Dice, TaughtClips, taught_clips
from procedural.labelled import COURSE, OUTLINES, PATHS, PATTERNS, SIZINGS, TURNINGS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize, one_hot

_KINDS = [len(kinds) for kinds in (PATHS, TURNINGS, SIZINGS, PATTERNS, OUTLINES)]
# How much each number counts among what a clip shows, beside each kind's 1: there are 29 kinds, 11 numbers
# of the course, 3 colours and 64 differences; so motion and look count about alike.
_COURSE_COUNTS, _COLOUR_COUNTS, _DIFFERENCES_COUNT = 1.5, 2.0, 0.3
# Of 392 tokens, picked at random: at a quarter of the work most of a motion is seen.
_TOKENS = 98
_BLOCK, _BLOCKS = 8, 512


class Questions(nn.Module):
    """Linear heads on standardised embeddings ``(B, D)``: logits of the kinds, the track, the descriptors."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.shown = nn.BatchNorm1d(sum(_KINDS), affine=False)
        self.course = nn.BatchNorm1d(COURSE, affine=False)
        self.colours = nn.BatchNorm1d(3, affine=False)
        self.kinds = nn.Linear(width, sum(_KINDS))
        self.track = nn.Linear(width, 5 * frames)
        self.colour = nn.Linear(width, 3)
        any_size = torch.zeros(1, frames, 3, 32, 32, dtype=torch.uint8)
        self.fineness = fineness(any_size).shape[1]
        described = _described(any_size).shape[1]
        self.described = nn.Linear(width, described)
        self.scale = nn.BatchNorm1d(described, affine=False)

    def loss(self, embeddings: Tensor, taught: TaughtClips) -> Tensor:
        """Weigh the answers, and how near clips are to each other.

        The sum of the cross-entropies of the five kinds, three times the squared errors of track and
        descriptors, 20 times that of colours, and 40 times that of the cosines between clips, which
        should be those between what they show: kinds, as 0 and 1, courses, colours, and where and when
        frames differ, all standardised.
        """
        normed = self.norm(embeddings)
        logits = self.kinds(normed).split(_KINDS, 1)
        kinds = sum(cross_entropy(part, taught.kinds[:, place]) for place, part in enumerate(logits))
        descriptors = self.scale(_described(taught.clips))
        described = mse_loss(self.described(normed), descriptors)
        colour = mse_loss(self.colour(normed), taught.colour)
        ones = [one_hot(part, count) for part, count in zip(taught.kinds.unbind(1), _KINDS, strict=True)]
        shown = [
            self.shown(torch.cat(ones, 1).float()),
            _COURSE_COUNTS * self.course(taught.course),
            _COLOUR_COUNTS * self.colours(taught.colour),
            _DIFFERENCES_COUNT * descriptors[:, : -self.fineness],
        ]
        nearness = mse_loss(_cosines(normed), _cosines(torch.cat(shown, 1)))
        track = mse_loss(self.track(normed), taught.track)
        return kinds + 3 * (track + described) + 20 * colour + 40 * nearness


def _cosines(rows: Tensor) -> Tensor:
    unit = normalize(rows)
    return unit @ unit.T


def _described(clips: Tensor) -> Tensor:
    return torch.cat([frame_difference(clips).log1p(), fineness(clips)], 1)


class Lessons:
    """Taught clips, each used several times in other colours; which follows from the step alone."""

    def __init__(self, seed: int, device: torch.device, frames: int, side: int) -> None:
        self._seed, self._device, self._frames, self._side = seed, device, frames, side
        self._blocks: deque[TaughtClips] = deque(maxlen=_BLOCKS)
        self._made = 0

    def batch(self, step: int, count: int, dice: Dice) -> TaughtClips:
        """Return ``count`` clips; every second step draws a new block."""
        wanted = _BLOCKS // 8 + step // 2
        for number in range(max(self._made, wanted - _BLOCKS), wanted):
            drawn = Dice(self._seed + number, self._device)
            self._blocks.append(taught_clips(drawn, _BLOCK, frames=self._frames, side=self._side))
        self._made = wanted
        block, clip = dice.choice(len(self._blocks), count).tolist(), dice.choice(_BLOCK, count).tolist()
        picked = [[part[c] for part in self._blocks[b]] for b, c in zip(block, clip, strict=True)]
        clips, kinds, track, course, colour = (torch.stack(part) for part in zip(*picked, strict=True))
        orders = torch.rand(count, 3, generator=dice.generator, device=dice.device).argsort(1)
        recoloured = [clip[:, order] for clip, order in zip(clips, orders, strict=True)]
        return TaughtClips(torch.stack(recoloured), kinds, track, course, colour.gather(1, orders))


def taught_loss(model: Any, questions: Questions, taught: TaughtClips, dice: Dice) -> Tensor:
    """Ask about clips, of which the encoder sees some tokens."""
    cut = tubelets(taught.clips, model.config)
    count, tokens = cut.shape[:2]
    seen = torch.rand(count, tokens, generator=dice.generator, device=dice.device).argsort(1)[:, :_TOKENS]
    mean, std = (torch.tensor(value, device=cut.device).view(3, 1, 1, 1) for value in (MEAN, STD))
    return questions.loss(encode(model, (take(cut, seen) / 255 - mean) / std, seen).mean(1), taught)
