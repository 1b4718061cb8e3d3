"""What features are worth: kNN and linear accuracy, for the curve of a training and for its card."""

from __future__ import annotations

from typing import Any

import torch
from masked_autoencoder import MEAN, STD, encode, tubelets
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vmae_embed.probes import LinearProbe


@torch.no_grad()
def pooled(
    model: Any, clips: Tensor, layer: int | None = None, *, first_token: bool = False, at_once: int = 32
) -> Tensor:
    """Embed clips by the mean of their tokens, or by the first.

    Args:
        clips: ``(B, T, 3, H, W)`` uint8.
        layer: stop after so many; None for all.

    Returns:
        ``(B, D)``.
    """
    mean, std = (torch.tensor(value, device=clips.device).view(3, 1, 1) for value in (MEAN, STD))
    pixels = ((part.float() / 255 - mean) / std for part in clips.split(at_once))
    tokens = (encode(model, tubelets(part, model.config), layers=layer) for part in pixels)
    return torch.cat([part[:, 0] if first_token else part.mean(1) for part in tokens])


def knn_accuracy(vectors: Tensor, labels: Tensor, k: int = 10, groups: Tensor | None = None) -> float:
    """Top-1 of k weighted neighbours by cosine of standardised features.

    Args:
        vectors: ``(B, D)``.
        labels: ``(B,)`` whole numbers.
        groups: ``(B,)``; clips of a clip's own group are no neighbours. None leaves out itself alone.
    """
    unit = normalize((vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-6))
    groups = torch.arange(len(labels), device=labels.device) if groups is None else groups
    scores, near = (unit @ unit.T).masked_fill(groups[:, None] == groups, -2).topk(k)
    # DINO's weights (Caron et al. 2021, temperature 0.07).
    votes = (one_hot(labels[near]).float() * (scores / 0.07).exp()[..., None]).sum(1)
    return round((votes.argmax(1) == labels).float().mean().item(), 4)


def linear_accuracy(vectors: Tensor, labels: Tensor, test: Tensor) -> float:
    """Top-1 of the package's linear probe on the clips that ``test`` ``(B,)`` marks, fitted to the others."""
    features, y, test = vectors.double().cpu().numpy(), labels.cpu().numpy(), test.bool().cpu().numpy()
    return LinearProbe(l2=10.0).fit(features[~test], y[~test]).score(features[test], y[test])
