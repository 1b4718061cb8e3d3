"""Write a trained model as a checkpoint in the hub's layout, its embeddings centred and of even spread."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from feature_tests import pooled
from masked_autoencoder import MEAN, STD
from torch import Tensor

# Dimensions that hardly vary are not blown up beyond this part of the middling spread.
_LEAST_SPREAD = 0.25

# Of the mean that embeddings share, so much is left, in units of their spread: cosines rise by its square.
_KEPT_MEAN = 0.05


def export(model: Any, folder: Path, clips: Tensor) -> None:
    """Save weights in float16, ``config.json`` and ``preprocessor_config.json``.

    Args:
        model: ``VideoMAEForPreTraining``; left as it is.
        clips: ``(B, T, 3, H, W)`` uint8, of the training's own kind, to centre embeddings by.
    """
    from transformers import VideoMAEImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    standardised(model, pooled(model, clips)).half().save_pretrained(folder)
    side = model.config.image_size
    VideoMAEImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(folder)


@torch.no_grad()
def standardised(model: Any, vectors: Tensor) -> Any:
    """Return the model with mean-pooled embeddings of mean nearly 0 and even spread, and the same reconstructions.

    Embeddings of a masked autoencoder share a strong mean, beside which all cosines are near 1. Pooling
    is a mean of what the final norm puts out, so shifting and scaling can be part of that norm's own
    weight and bias, and the decoder's first product takes them back. It has no bias to take the shift
    back with, but normed tokens sum to zero before weight and bias, so that a certain sum of what comes
    out is always the same number: that is its bias. Of embeddings that are centred exactly that number is 0,
    so a little of their mean is left where it makes this number large, for weights that float16 can hold.

    Args:
        vectors: ``(B, D)`` float32, mean-pooled embeddings as they are now.
    """
    model = copy.deepcopy(model)
    norm, into_decoder = model.videomae.layernorm, model.encoder_to_decoder
    mean, spread = vectors.mean(0), vectors.std(0)
    spread = spread.clamp(min=_LEAST_SPREAD * spread.median().item())
    old = into_decoder.weight.clone()
    norm.weight /= spread
    mean -= _KEPT_MEAN * spread * norm.weight / norm.weight.square().mean().sqrt()
    norm.bias.copy_((norm.bias - mean) / spread)
    constant = (norm.bias / norm.weight).sum()
    into_decoder.weight.copy_(old * spread + torch.outer(old @ mean, 1 / (norm.weight * constant)))
    return model
