"""One step of masked-autoencoder training of transformers' VideoMAE, doing only the work that counts.

The same modules, mask and loss as ``VideoMAEForPreTraining.forward``, to rounding (a test compares
them). What differs is what is not computed: hidden tubelets are never embedded, and only a part of
them is decoded, drawn anew for each step, as VideoMAE V2 does ("dual masking", Wang et al. 2023,
arXiv:2303.16727, section 3.1). Here that is 2 to 3 times as many clips a second.
"""

from __future__ import annotations

from typing import Any

import torch
from procedural import Dice
from torch import Tensor
from torch.nn.functional import linear, mse_loss

# What every published VideoMAE's preprocessor_config.json says (the ImageNet statistics).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tubelets(clips: Tensor, config: Any) -> Tensor:
    """Cut clips into tubelets.

    Args:
        clips: ``(B, T, 3, H, W)``.

    Returns:
        ``(B, N, 3, tubelet_size, patch_size, patch_size)``, N in the encoder's order.
    """
    time, patch = config.tubelet_size, config.patch_size
    cut = clips.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(1, (-1, time))
    # B, T/t, t, C, H/p, p, W/p, p
    return cut.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(1, 3)


def tube_order(dice: Dice, count: int, config: Any) -> Tensor:
    """Order each clip's tubes at random: the first are seen, the others hidden.

    Returns:
        ``(B, tubes, T/tubelet_size)`` places of tokens, a tube being one place at all times.
    """
    tubes = (config.image_size // config.patch_size) ** 2
    order = torch.stack([torch.randperm(tubes, generator=dice.generator, device=dice.device) for _ in range(count)])
    times = torch.arange(config.num_frames // config.tubelet_size, device=dice.device)
    return order[..., None] + tubes * times


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """Pick tokens ``(B, n)`` of ``(B, N, ...)``."""
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None], places]


def encode(model: Any, pixels: Tensor, places: Tensor | None = None, layers: int | None = None) -> Tensor:
    """Run the encoder over some of the tokens.

    Args:
        pixels: ``(B, n, 3, t, p, p)`` normalised tubelets.
        places: ``(B, n)`` of them in the clip; None for all in order.
        layers: how many of the encoder's; None for all.

    Returns:
        ``(B, n, D)`` after the final norm.
    """
    backbone = model.videomae
    projection = backbone.embeddings.patch_embeddings.projection
    tokens = linear(pixels.flatten(2), projection.weight.flatten(1), projection.bias)
    positions = backbone.embeddings.position_embeddings.to(tokens)[0]
    tokens = tokens + (positions if places is None else positions[places])
    for layer in backbone.encoder.layer[:layers]:
        tokens = layer(tokens)
    return backbone.layernorm(tokens)


def masked_loss(model: Any, clips: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
    """Reconstruct hidden tubelets from seen ones.

    Args:
        clips: ``(B, T, 3, H, W)`` uint8.
        seen: ``(B, n)`` places of tokens that the encoder gets.
        hidden: ``(B, m)`` places of tokens to reconstruct.

    Returns:
        Mean squared error against each tubelet's pixels less their mean, over their deviation.
    """
    cut = tubelets(clips, model.config)
    return mse_loss(reconstruct(model, cut, seen, hidden), targets(take(cut, hidden) / 255))


def reconstruct(model: Any, cut: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
    """What the model makes of hidden tubelets ``(B, m, t*p*p*3)``, given those of uint8 tubelets that are seen."""
    mean, std = (torch.tensor(value, device=cut.device).view(3, 1, 1, 1) for value in (MEAN, STD))
    encoded = model.encoder_to_decoder(encode(model, (take(cut, seen) / 255 - mean) / std, seen))
    positions = model.position_embeddings.to(encoded)[0]
    tokens = torch.cat([encoded + positions[seen], model.mask_token + positions[hidden]], dim=1)
    painted: Tensor = model.decoder(tokens, hidden.shape[1]).logits
    return painted


def targets(cut: Tensor) -> Tensor:
    """What is to be made of tubelets ``(B, m, 3, t, p, p)``: ``(B, m, t*p*p*3)``, normalised each by itself."""
    pixels = cut.permute(0, 1, 3, 4, 5, 2).flatten(2, 4)
    centred = pixels - pixels.mean(2, keepdim=True)
    return (centred / (pixels.var(2, keepdim=True).sqrt() + 1e-6)).flatten(2)
