"""The network of an attentive probe."""

from __future__ import annotations

import torch
from torch import nn


class AttentivePooler(nn.Module):
    """Pool ``(B, N, D)`` tokens by cross-attention and classify them: ``(B, K)`` logits.

    The block of V-JEPA's ``AttentiveClassifier`` (src/models/attentive_pooler.py): a learned query,
    cross-attention to the normed tokens, a network of four times the width, each beside what it
    adds to, and a linear layer.

    Args:
        width: D, a multiple of ``heads``.
        n_classes: K.
        heads: of the attention.
    """

    def __init__(self, width: int, n_classes: int, *, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm_tokens, self.norm_pooled = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.classify = nn.Linear(width, n_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(B, N, D)`` to ``(B, K)``."""
        normed = self.norm_tokens(tokens)
        query = self.query.expand(len(tokens), -1, -1)
        pooled = query + self.attention(query, normed, normed, need_weights=False)[0]
        pooled = pooled + self.mlp(self.norm_pooled(pooled))
        logits: torch.Tensor = self.classify(pooled[:, 0])
        return logits
