"""Time a training step of the attentive probe's network, beside the same block with keys and values of every token.

    python scripts/bench_attentive.py [--width 768] [--tokens 1568] [--batch 16] [--rounds 5]

The two take turns. The other is V-JEPA's block (src/models/attentive_pooler.py of facebookresearch/jepa), over
torch's own attention.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from vmae_embed.probes.pooler import AttentivePooler, heads_of


class EveryToken(nn.Module):
    """``(B, N, D)`` normed tokens to ``(B, K)``: a learned query, keys and values of every token."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads_of(width), batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.classify = nn.Linear(width, n_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(len(tokens), -1, -1)
        pooled = query + self.attention(query, tokens, tokens, need_weights=False)[0]
        logits: torch.Tensor = self.classify((pooled + self.mlp(self.norm(pooled)))[:, 0])
        return logits


def step_s(network: nn.Module, tokens: torch.Tensor, truth: torch.Tensor) -> float:
    """Seconds of a pass forward and back."""
    begun = time.perf_counter()
    functional.cross_entropy(network(tokens), truth).backward()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 768), ("tokens", 1568), ("batch", 16), ("rounds", 5), ("classes", 400)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    tokens = torch.randn(given.batch, given.tokens, given.width)
    truth = torch.randint(0, given.classes, (given.batch,))
    networks = {
        "ours": AttentivePooler(given.width, given.classes),
        "every token": EveryToken(given.width, given.classes),
    }
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(given.rounds + 1):
        for name, network in networks.items():
            seconds = step_s(network, tokens, truth)
            if turn:  # the first allocates
                taken[name].append(seconds)
    for name, seconds in taken.items():
        print(f"{name:<12} {statistics.median(seconds) / given.batch * 1000:8.1f} ms a clip")
    ratios = [theirs / ours for ours, theirs in zip(taken["ours"], taken["every token"], strict=True)]
    print(f"ratio        {statistics.median(ratios):8.1f}   ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
