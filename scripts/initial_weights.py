"""Where training starts: an encoder that measures motion, texture and colour, and a decoder that looks around.

Transformers' own initial weights are random. With two cores, the first hours then go into finding out
that neighbouring tubelets are alike and that it matters where two frames differ: VideoMAE's positions are
one sinusoid over the flattened token number, in which "the one above" is a rotation that attention must
learn. So training starts from weights that already compute what classical descriptors of video do, as
energies of filters (Adelson and Bergen 1985, doi:10.1364/JOSAA.2.000284): how much changes, at which moment and
in which row, and the colours and textures of what changes. All of it is written in VideoMAE's own layers,
and all of it may be changed by training. Attention starts by looking at one neighbour a head, in the
spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv:2305.09828).

The residual stream's lower half holds positions (the upper half's sinusoids hardly change over the
tokens of a clip, half of them being 1). Its upper half holds content: colours, then cosine waves over the
patch, of the sum and of the difference of a tubelet's two frames. The last but one layer sums up how much
changes. The last one overwrites the positions, which nothing needs any more, with the energies.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from masked_autoencoder import MEAN, STD, targets, tubelets
from torch import Tensor
from torch.nn.functional import normalize

# Steps in token number to the next tubelet across, down and in time, 7 x 7 tubes a frame.
_ENCODER_OFFSETS = (0, 1, -1, 7, -7, 49, -49, 8, -8)
_DECODER_OFFSETS = (1, -1, 7, -7, 0, 49)
# How sharply heads look at their neighbour, and how much of it they bring.
_SHARPNESS, _BROUGHT = 1.5, 0.6
_TUBELETS = 12_000
_CLEAN = 6  # dimensions without content, the last ones: sine (0) and cosine (1) in turn
_SPREAD = 0.8  # of each content dimension
# Energies: how many waves of what stays, of what changes, and of the texture of what changes.
_STAYING, _CHANGING, _TEXTURE = 20, 20, 21
_SLOW_WAVES = 15  # make up how much changes
_STEEP = 3.0  # makes the activations' bend sharp
_PRESENCE, _CHOICE = 1.0, 16.0
_DEAD = 0.1  # amplitudes of changes below it are noise
_QUIET = 0.3  # what all other units write, of transformers' spread


@torch.no_grad()
def prepare(model: Any, clips: Tensor) -> None:
    """Set a fresh model's weights.

    Args:
        model: ``VideoMAEForPreTraining`` as transformers makes it.
        clips: ``(B, T, 3, H, W)`` uint8, to measure the spread of waves on.
    """
    config, projection = model.config, model.videomae.embeddings.patch_embeddings.projection
    width, narrow = config.hidden_size, config.decoder_hidden_size
    half, content = width // 2, narrow // 2
    cut = tubelets(clips, config).flatten(0, 1)
    cut = cut[torch.linspace(0, len(cut) - 1, _TUBELETS).long()].float() / 255
    wanted = targets(cut[None])[0]

    many = half - 3 - _CLEAN
    basis = torch.zeros(3 + many, 3, config.tubelet_size, config.patch_size, config.patch_size, device=clips.device)
    basis[range(3), range(3)] = 1.0
    basis[3:] = _cosines(many, config.patch_size)[:, None].to(clips.device)
    mean, std = (torch.tensor(value, device=clips.device).view(3, 1, 1, 1) for value in (MEAN, STD))
    spread = (((cut - mean) / std).flatten(1) @ basis.flatten(1).T).std(0)
    projection.weight.zero_()
    projection.weight[half : half + len(basis)] = _SPREAD * basis / spread[:, None, None, None, None]

    # Half of the upper sinusoids are 1 throughout: content should vary around 0.
    offsets = model.videomae.embeddings.position_embeddings[0].mean(0)[half : half + len(basis)]
    projection.bias[half : half + len(basis)] = -offsets.to(projection.bias)

    components = normalize(basis[3:].permute(0, 2, 3, 4, 1).flatten(1))
    into = model.encoder_to_decoder.weight
    into *= 0.2
    into[:, :half] = 0
    into[content:, half : half + content] += torch.eye(content, device=clips.device)
    shown = components[: content - 3]
    head = model.decoder.head.weight
    head *= 0.2
    head[:, content + 3 :] += 0.5 * (shown * (wanted @ shown.T).std(0)[:, None]).T

    _look_around(model.videomae.encoder.layer, width, config.num_attention_heads, _ENCODER_OFFSETS)
    _look_around(model.decoder.decoder_layers, narrow, config.decoder_num_attention_heads, _DECODER_OFFSETS)
    for layer in model.decoder.decoder_layers:
        _bring(layer.attention, content, config.decoder_num_attention_heads)
    _measure(model)


def _cosines(count: int, patch: int) -> Tensor:
    """Cosine waves over a patch from slow to fast, as a codec has them: ``(count, 2, patch, patch)``.

    The first half are the sums of a tubelet's two frames, the others their differences.
    """
    place = torch.arange(patch)
    waves = torch.cos(math.pi * (2 * place[None, :] + 1) * place[:, None] / (2 * patch))
    slowest = sorted(itertools.product(range(patch), repeat=2), key=lambda pair: (sum(pair), pair))
    planes = torch.stack([torch.outer(waves[down], waves[across]) for down, across in slowest[: count // 2 + 2]])
    still, moving = planes[1 : count // 2 + 1], planes[: count - count // 2]
    return torch.cat([torch.stack([still, still], 1), torch.stack([moving, -moving], 1)])


def _measure(model: Any) -> None:
    """Let the last two layers' activations compute energies."""
    config, layers = model.config, model.videomae.encoder.layer
    width, half = config.hidden_size, config.hidden_size // 2
    positions = model.videomae.embeddings.position_embeddings[0].float().cpu()
    many = half - 3 - _CLEAN
    staying, changing = half + 3, half + 3 + many // 2
    change, one = width - _CLEAN, width - 1  # dimensions: how much changes, and 1

    def row(**places: float) -> Tensor:
        made = torch.zeros(width)
        for place, value in places.items():
            made[int(place[1:])] = value
        return made

    for layer in layers:
        layer.attention.output.dense.weight *= _QUIET
        layer.output.dense.weight *= _QUIET
    earlier = _Units(layers[0])
    for wave in range(changing, changing + _SLOW_WAVES):
        for sign in (1, -1):
            reads = row(**{f"d{wave}": sign * _STEEP, f"d{one}": -_STEEP * _DEAD})
            earlier.add(reads, change, 4 / _STEEP / _SLOW_WAVES)
    last, free = _Units(layers[-1]), iter(range(half))
    present = row(**{f"d{change}": _PRESENCE})

    def gated(test: Tensor, into: int) -> None:
        """Write how much changes where a test is above 0: the difference of two rectifiers."""
        last.add(_CHOICE * test + present, into, 1.0)
        last.add(_CHOICE * test, into, -1.0)

    for first, count in ((staying, _STAYING), (changing, _CHANGING)):
        for wave, into in zip(range(first, first + count), free):  # noqa: B905 - free goes on
            for sign in (1, -1):
                last.add(row(**{f"d{wave}": sign * _STEEP}), into, 1 / _STEEP)
    for wave, into in zip(range(staying, staying + _TEXTURE), free):  # noqa: B905
        for sign in (1, -1):
            gated(row(**{f"d{wave}": sign, f"d{one}": -0.5}), into)
    token = torch.arange(len(positions))
    across = config.image_size // config.patch_size
    moments, rows = token // across**2, token % across**2 // across
    cells = [moments == moment for moment in moments.unique()] + [rows == line for line in rows.unique()]
    known = torch.cat([positions[:, :half], torch.ones(len(positions), 1)], 1)
    solve = torch.linalg.solve(known.T @ known + 0.3 * torch.eye(half + 1), known.T)
    for cell, into in zip(cells, free):  # noqa: B905
        weights = solve @ (cell.float() - 0.5)
        test = row(**{f"d{one}": weights[-1].item()})
        test[:half] = weights[:-1]
        gated(test, into)
    directions = [d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)]
    for direction, into in zip(directions, free):  # noqa: B905
        toward = normalize(torch.tensor(direction, dtype=torch.float32), dim=0)
        test = row(**{f"d{one}": -0.5})
        test[half : half + 3] = toward
        gated(test, into)


class _Units:
    """A layer's hidden units, given out one by one; what is not given out stays as it is."""

    def __init__(self, layer: Any) -> None:
        self._into, self._out, self._next = layer.intermediate.dense, layer.output.dense, 0

    def add(self, weights: Tensor, into: int, gain: float) -> None:
        """Let the next unit read by ``weights`` ``(D,)`` and write to a dimension."""
        self._into.weight[self._next] = weights.to(self._into.weight)
        self._out.weight[:, self._next] = 0
        self._out.weight[into, self._next] = gain
        self._next += 1


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
