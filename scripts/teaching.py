"""The second half of training: asking the pooled embedding what moved how, and what it looked like.

Reconstruction alone, at this size and in these hours, leaves mean-pooled features that say more of a
clip's backdrop than of what happens before it. The generator knows what happens, so it may ask: by
which kind of path, turning and sizing the thing moved, where it was in each frame, and which surface
and outline it had. As published VideoMAEs are fine-tuned on labels that people gave, this one is on
labels that the generator gives. The questions' heads are thrown away.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from masked_autoencoder import MEAN, STD, encode, take, tubelets
from procedural import Dice, TaughtClips, taught_clips
from procedural.labelled import OUTLINES, PATHS, PATTERNS, SIZINGS, TURNINGS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

_KINDS = [len(kinds) for kinds in (PATHS, TURNINGS, SIZINGS, PATTERNS, OUTLINES)]
# Of 392 tokens, picked at random: at a third of the work most of a motion is seen.
_TOKENS = 128
_BLOCK, _BLOCKS = 8, 512


class Questions(nn.Module):
    """Linear heads on standardised embeddings ``(B, D)``: logits of the kinds, and the track."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.kinds = nn.Linear(width, sum(_KINDS))
        self.track = nn.Linear(width, 5 * frames)

    def loss(self, embeddings: Tensor, taught: TaughtClips) -> Tensor:
        """Sum of the cross-entropies of the five kinds, and three times the squared error of the track."""
        normed = self.norm(embeddings)
        logits = self.kinds(normed).split(_KINDS, 1)
        kinds = sum(cross_entropy(part, taught.kinds[:, place]) for place, part in enumerate(logits))
        return kinds + 3 * mse_loss(self.track(normed), taught.track)


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
        clips, kinds, track = (torch.stack(part) for part in zip(*picked, strict=True))
        colours = torch.rand(count, 3, generator=dice.generator, device=dice.device).argsort(1)
        recoloured = [clip[:, order] for clip, order in zip(clips, colours, strict=True)]
        return TaughtClips(torch.stack(recoloured), kinds, track)


def taught_loss(model: Any, questions: Questions, taught: TaughtClips, dice: Dice) -> Tensor:
    """Ask about clips, of which the encoder sees some tokens."""
    cut = tubelets(taught.clips, model.config)
    count, tokens = cut.shape[:2]
    seen = torch.rand(count, tokens, generator=dice.generator, device=dice.device).argsort(1)[:, :_TOKENS]
    mean, std = (torch.tensor(value, device=cut.device).view(3, 1, 1, 1) for value in (MEAN, STD))
    return questions.loss(encode(model, (take(cut, seen) / 255 - mean) / std, seen).mean(1), taught)
