"""The network of an attentive probe."""

from __future__ import annotations

import math

import torch
from torch import nn

# V-JEPA's first weights (src/models/attentive_pooler.py of facebookresearch/jepa).
_STD = 0.02
_WIDTH_OF_A_HEAD = 64


class AttentivePooler(nn.Module):
    """Pool B clips' tokens by cross-attention and classify them.

    The block of V-JEPA's ``AttentiveClassifier``: a learned query, cross-attention to the normed
    tokens, a network of four times the width, each beside what it adds to, and a linear layer.

    One query is the same for all clips, so that its projection goes through the keys' weights once
    a batch, and values are projected after they are averaged. That is the same function, without
    two matrix products a token: some 20 times as fast on two cores (`docs/benchmarks.md`). Keys have no
    bias, which no softmax would notice.

    Args:
        width: D.
        n_classes: K.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.query = nn.Parameter(torch.empty(width))
        self.gain, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.ask = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.classify = nn.Linear(width, n_classes)
        nn.init.trunc_normal_(self.query, std=_STD)
        for layer in (self.ask, self.key, self.value, self.project, self.widen, self.narrow, self.classify):
            nn.init.trunc_normal_(layer.weight, std=_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for layer in (self.project, self.narrow):
                layer.weight /= math.sqrt(2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(B, N, D)``, each token of mean 0 and variance 1, to ``(B, K)`` logits."""
        width = tokens.shape[2]
        asked = self.ask(self.query).view(self.heads, 1, -1) / math.sqrt(width // self.heads)
        # (heads, D): what each head looks for in a token.
        sought = (asked @ self.key.weight.view(self.heads, -1, width)).squeeze(1) * self.gain
        attention = (tokens @ sought.T).softmax(1)
        averaged = (attention.transpose(1, 2) @ tokens) * self.gain + self.offset
        values = self.value.weight.view(self.heads, -1, width)
        attended = torch.einsum("bhd,hcd->bhc", averaged, values).flatten(1) + self.value.bias
        pooled = self.query + self.project(attended)
        pooled = pooled + self.narrow(nn.functional.gelu(self.widen(self.norm(pooled))))
        logits: torch.Tensor = self.classify(pooled)
        return logits


def heads_of(width: int) -> int:
    """How many heads share a width: 64 numbers each, or the next larger share that is even."""
    return next(heads for heads in range(max(width // _WIDTH_OF_A_HEAD, 1), 0, -1) if width % heads == 0)
