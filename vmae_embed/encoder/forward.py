"""VideoMAE's encoder, forward only, over a checkpoint's weights.

It computes what transformers' `VideoMAEModel` does, in fewer and larger steps: uint8 frames go in,
preprocessing is folded into the patch embedding, which is one matrix product, and queries, keys and
values are another. Products run in the precision asked for; what is summed up over the layers,
the norms and the pooling stay in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vmae_embed.checkpoint import Checkpoint
from vmae_embed.encoder.attention import attend
from vmae_embed.errors import CheckpointError
from vmae_embed.preprocess import Preprocessing

Weights = dict[str, torch.Tensor]


class VideoTransformer(nn.Module):
    """Cropped frames to embeddings.

    Args:
        checkpoint: whose weights it takes; they are copied where the precision changes.
        dtype: of the matrix products.
        pooling: ``"mean"`` of the tokens, or ``"first-token"``.

    Raises:
        CheckpointError: the checkpoint has weights or settings that this forward pass does not know.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, pooling: str) -> None:
        super().__init__()
        config = checkpoint.backbone.config
        if config.num_channels != 3:
            raise CheckpointError(f"{checkpoint.name}: takes {config.num_channels} channels; video frames have 3")
        weights: Weights = dict(checkpoint.backbone.state_dict())
        self.patches = _Patches(weights, checkpoint, dtype)
        self.layers = nn.ModuleList(
            _Layer(weights, f"encoder.layer.{i}", layer.intermediate.intermediate_act_fn, config, dtype)
            for i, layer in enumerate(checkpoint.backbone.encoder.layer)
        )
        has_norm = checkpoint.backbone.layernorm is not None
        self.norm = _Norm(weights, "layernorm", config.layer_norm_eps, torch.float32) if has_norm else None
        self.pooled_norm = copy.deepcopy(checkpoint.pooled_norm)
        self.first_token_only = pooling == "first-token"
        if weights:
            raise CheckpointError(f"{checkpoint.name}: weights of no known use: {', '.join(sorted(weights)[:3])}")

    def forward(self, frames: torch.Tensor, with_tokens: bool = False) -> torch.Tensor:
        """``(B, T, H, W, 3)`` uint8 to ``(B, D)`` float32.

        With tokens, to ``(B, 1 + N, D)``: the same embedding, then the tokens.
        """
        pooled_tokens = 1 if self.first_token_only else None
        tokens = self.tokens(frames, count=None if with_tokens else pooled_tokens)
        pooled = tokens[:, :pooled_tokens].mean(1)
        if self.pooled_norm is not None:
            pooled = self.pooled_norm(pooled)
        return torch.cat([pooled[:, None], tokens], dim=1) if with_tokens else pooled

    def tokens(self, frames: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """``(B, T, H, W, 3)`` uint8 to the last layer's first ``count`` tokens, ``(B, N, D)`` float32; None for all.

        They are normed where the checkpoint norms tokens: fine-tuned ones norm what is pooled.
        """
        tokens: torch.Tensor = self.patches(frames)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = tokens[:, :count]
        return self.norm(tokens) if self.norm is not None else tokens


class _Patches(nn.Module):
    """Frames to tokens, position included.

    Rescaling and normalising are linear, so they are folded into the weights. What reaches the
    product are the bytes themselves, which bfloat16 and float16 hold exactly.
    """

    weight: torch.Tensor
    positions: torch.Tensor

    def __init__(self, weights: Weights, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__()
        # (D, 3, t, h, w), as a Conv3d that never overlaps keeps it.
        kernel = _take(weights, "embeddings.patch_embeddings.projection.weight").double()
        bias = _take(weights, "embeddings.patch_embeddings.projection.bias").double()
        self.size: tuple[int, int, int] = (kernel.shape[2], kernel.shape[3], kernel.shape[4])
        scale, black = _pixel_values(checkpoint.preprocessing)
        folded = (kernel * scale.view(1, 3, 1, 1, 1)).to(dtype)
        # The offset goes with the weights as rounded: an error of theirs then acts on contrast, not on brightness.
        offset = bias + (folded.double() * (black / scale).view(1, 3, 1, 1, 1)).sum(dim=(1, 2, 3, 4))
        self.register_buffer("weight", folded.permute(0, 2, 3, 4, 1).flatten(1).contiguous())
        positions = checkpoint.backbone.embeddings.position_embeddings.double() + offset
        self.register_buffer("positions", positions.float())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        depth, height, width = self.size
        batch, *sides = frames.shape[:4]
        along, down, across = (side // step for side, step in zip(sides, self.size, strict=True))
        # As a convolution does, leave out what does not fill a patch.
        whole = frames[:, : along * depth, : down * height, : across * width]
        patches = whole.reshape(batch, along, depth, down, height, across, width, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
        flat = patches.reshape(batch, along * down * across, self.weight.shape[1]).to(self.weight.dtype)
        return functional.linear(flat, self.weight) + self.positions


class _Layer(nn.Module):
    """Attention and a two-layer network, each after a norm and beside what it adds to."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        activation: Callable[[torch.Tensor], torch.Tensor],
        config: Any,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.heads: int = config.num_attention_heads
        self.norm_before = _Norm(weights, f"{name}.layernorm_before", config.layer_norm_eps, dtype)
        self.qkv = _fuse_qkv(weights, f"{name}.attention.attention", self.heads, dtype)
        self.attended = _linear(weights, f"{name}.attention.output.dense", dtype)
        self.norm_after = _Norm(weights, f"{name}.layernorm_after", config.layer_norm_eps, dtype)
        self.widen = _linear(weights, f"{name}.intermediate.dense", dtype)
        self.activation = activation
        self.narrow = _linear(weights, f"{name}.output.dense", dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attended(attend(self.qkv(self.norm_before(tokens)), self.heads))
        added: torch.Tensor = self.narrow(self.activation(self.widen(self.norm_after(tokens))))
        return tokens + added


class _Norm(nn.Module):
    """A layer norm in float32 whose result is cast to what comes next."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weights: Weights, name: str, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", _take(weights, f"{name}.weight"))
        self.register_buffer("bias", _take(weights, f"{name}.bias"))
        self.eps = eps
        self.dtype = dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(tokens, self.weight.shape, self.weight, self.bias, self.eps).to(self.dtype)


class _Linear(nn.Module):
    """A matrix product and a bias in one precision."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.linear(tokens, self.weight, self.bias)


def _linear(weights: Weights, name: str, dtype: torch.dtype) -> _Linear:
    return _Linear(_take(weights, f"{name}.weight"), _take(weights, f"{name}.bias"), dtype)


def _fuse_qkv(weights: Weights, name: str, heads: int, dtype: torch.dtype) -> _Linear:
    """One product for queries, keys and values; attention's scale is in the queries. Keys have no bias."""
    parts = [_take(weights, f"{name}.{part}.weight") for part in ("query", "key", "value")]
    none = parts[0].new_zeros(len(parts[0]))
    biases = [weights.pop(f"{name}.query.bias", none), none, weights.pop(f"{name}.value.bias", none)]
    scale = (len(parts[0]) // heads) ** -0.5
    return _Linear(torch.cat([parts[0] * scale, *parts[1:]]), torch.cat([biases[0] * scale, *biases[1:]]), dtype)


def _take(weights: Weights, name: str) -> torch.Tensor:
    try:
        return weights.pop(name)
    except KeyError:
        raise CheckpointError(f"the loaded model has no weight {name}: this transformers names it otherwise") from None


def _pixel_values(preprocessing: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    """What normalising makes of a byte: ``scale * byte + black``, per channel."""
    rescale = 1.0 if preprocessing.rescale is None else preprocessing.rescale
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
    std = torch.tensor(preprocessing.std, dtype=torch.float64)
    return rescale / std, -mean / std
