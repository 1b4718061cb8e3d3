"""The head of a fine-tuned checkpoint: from embeddings to labels.

An embedding of a fine-tuned checkpoint is what its classifier takes (`vmae_embed.checkpoint`), so that labels
need no second pass through the encoder, and no video where embeddings are stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear layer, and the names of what it gives.

    Attributes:
        weight: ``(L, D)`` float32, L the number of labels.
        bias: ``(L,)`` float32.
        labels: L names, as the checkpoint's ``id2label`` has them.
        pooling: that its input takes of the tokens: ``"mean"``, or ``"first-token"``.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    labels: tuple[str, ...]
    pooling: str

    @property
    def sha256(self) -> str:
        """Of weights and names: the same gives the same labels."""
        digest = hashlib.sha256("\0".join(self.labels).encode())
        for tensor in (self.weight, self.bias):
            digest.update(f"{tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score each label.

        Args:
            embeddings: ``(B, D)`` float32.

        Returns:
            ``(B, L)`` float32; those of transformers' ``VideoMAEForVideoClassification``.
        """
        return embeddings @ self.weight.T + self.bias

    def probabilities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how likely each label is: the softmax of `logits`.

        Args:
            embeddings: ``(B, D)`` float32.

        Returns:
            ``(B, L)`` float32, rows that sum to 1.
        """
        logits = self.logits(embeddings)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def best(self, probabilities: NDArray[np.floating], k: int) -> list[tuple[str, float]]:
        """Name the likeliest labels.

        Args:
            probabilities: ``(L,)``.
            k: how many; all, if there are fewer.

        Returns:
            Labels and their probabilities, the likeliest first; the first in order of ``id2label`` of equal ones.
        """
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.labels[label], float(probabilities[label])) for label in order]
