"""Where training starts: knowing what tubelets look like and who is whose neighbour, and nothing else.

Transformers' own initial weights are random, and the first thousands of steps then go into finding
out that neighbouring tubelets are alike: VideoMAE's positions are one sinusoid over the flattened
token number, in which "the one above" is a rotation that attention must learn. With 39 hidden tubes a
clip and two cores, that is most of the time there is. So the patch embedding and the head start as
principal components of generated tubelets, and attention heads start by looking at one neighbour
each, in the spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv:2305.09828).
"""

from __future__ import annotations

from typing import Any

import torch
from masked_autoencoder import MEAN, STD, targets, tubelets
from torch import Tensor

# Steps in token number to the next tubelet across, down and in time, 7 x 7 tubes a frame.
_ENCODER_OFFSETS = (0, 1, -1, 7, -7, 49, -49, 8, -8)
_DECODER_OFFSETS = (1, -1, 7, -7, 0, 49)
# How sharply heads look at their neighbour, and how much of it they bring.
_SHARPNESS, _BROUGHT = 1.5, 0.6
_TUBELETS = 12_000


@torch.no_grad()
def prepare(model: Any, clips: Tensor) -> None:
    """Set a fresh model's weights.

    The lower half of the encoder's width holds positions, the upper half content: the sinusoids of
    the upper half hardly change over the 392 tokens. The decoder's width is halved likewise.

    Args:
        model: ``VideoMAEForPreTraining`` as transformers makes it.
        clips: ``(B, T, 3, H, W)`` uint8, to take principal components of.
    """
    config, projection = model.config, model.videomae.embeddings.patch_embeddings.projection
    width, narrow = config.hidden_size, config.decoder_hidden_size
    half, content = width // 2, narrow // 2
    cut = tubelets(clips, config).flatten(0, 1)
    cut = cut[torch.linspace(0, len(cut) - 1, _TUBELETS).long()].float() / 255
    wanted = targets(cut[None])[0]
    components = torch.linalg.eigh(wanted.T @ wanted / len(wanted)).eigenvectors.flip(1).T[: half - 3]

    size, patch = config.tubelet_size, config.patch_size
    basis = torch.zeros(half, 3, size, patch, patch, device=clips.device)
    basis[range(3), range(3)] = 1.0
    basis[3:] = components.view(-1, size, patch, patch, 3).permute(0, 4, 1, 2, 3)
    mean, std = (torch.tensor(value, device=clips.device).view(3, 1, 1, 1) for value in (MEAN, STD))
    spread = (((cut - mean) / std).flatten(1) @ basis.flatten(1).T).std(0)
    projection.weight.zero_()
    projection.weight[half:] = 0.8 * basis / spread[:, None, None, None, None]

    model.encoder_to_decoder.weight *= 0.2
    model.encoder_to_decoder.weight[content:, half : half + content] += torch.eye(content, device=clips.device)
    shown = components[: content - 3]
    head = model.decoder.head.weight
    head *= 0.2
    head[:, content + 3 :] += 0.5 * (shown * (wanted @ shown.T).std(0)[:, None]).T

    _look_around(model.videomae.encoder.layer, width, config.num_attention_heads, _ENCODER_OFFSETS)
    _look_around(model.decoder.decoder_layers, narrow, config.decoder_num_attention_heads, _DECODER_OFFSETS)
    for layer in model.decoder.decoder_layers:
        _bring(layer.attention, content, config.decoder_num_attention_heads)


def _look_around(layers: Any, width: int, heads: int, offsets: tuple[int, ...]) -> None:
    """Let each head look at the token so many further on: a rotation of the sinusoids' fastest pairs."""
    depth = width // heads
    pairs = torch.arange(depth // 2)
    for number, layer in enumerate(layers):
        attention = layer.attention.attention
        for head in range(heads):
            offset = offsets[(number * heads + head) % len(offsets)]
            angle = offset / 10000 ** (2 * pairs / width)
            rotation = torch.zeros(depth, depth)
            rotation[2 * pairs, 2 * pairs] = rotation[2 * pairs + 1, 2 * pairs + 1] = angle.cos()
            rotation[2 * pairs, 2 * pairs + 1] = angle.sin()
            rotation[2 * pairs + 1, 2 * pairs] = -angle.sin()
            rows = slice(head * depth, (head + 1) * depth)
            attention.query.weight[rows, :depth] += _SHARPNESS * rotation.to(attention.query.weight)
            attention.key.weight[rows, :depth] += _SHARPNESS * torch.eye(depth).to(attention.key.weight)


def _bring(attention: Any, content: int, heads: int) -> None:
    """Let the decoder's heads bring what they look at."""
    value, out = attention.attention.value.weight, attention.output.dense.weight
    depth = len(value) // heads
    brought = _BROUGHT * torch.eye(min(depth, content)).to(value)
    for head in range(heads):
        rows, columns = slice(head * depth, head * depth + len(brought)), slice(content, content + len(brought))
        value[rows, columns] += brought
        out[columns, rows] += brought
