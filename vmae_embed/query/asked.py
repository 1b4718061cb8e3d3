"""What is searched for, once a query has been read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.records import QueryClip


@dataclass(frozen=True)
class Asked:
    """What is searched for.

    Attributes:
        name: the query as it was given.
        clips: Q of them.
        vectors: ``(Q, D)``, one a clip; of clips that were made one, ``(1, D)``.
        rows: of the index's table that it is itself.
        video_ids: of the library's videos that it is part of; one file may be in it under several.
        start_s: where in that video it begins, in seconds.
        end_s: where it ends.
        embedded: whether an encoder was needed.
        scale: what the index's scores are to be multiplied by.
    """

    name: str
    clips: list[QueryClip]
    vectors: NDArray[np.float32]
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    video_ids: frozenset[str] = frozenset()
    start_s: float = -np.inf
    end_s: float = np.inf
    embedded: bool = False
    scale: float = 1.0

    def query_of(self, vector: int) -> str:
        """Name the query clip of a vector; of clips that were made one, the query."""
        return self.clips[vector].name if len(self.clips) == len(self.vectors) else self.name

    def averaged(self, metric: str) -> Asked:
        """Make one vector of all, whose scores are the mean of theirs.

        A mean of inner products is the inner product with the mean; a cosine is one of unit vectors,
        whose mean is shorter than 1, which an index for cosines does not see.
        """
        if len(self.vectors) == 1:
            return self
        vectors = self.vectors.astype(np.float64)
        if metric == "ip":
            return replace(self, vectors=vectors.mean(axis=0, keepdims=True).astype(np.float32))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        mean = (vectors / np.where(lengths > 0, lengths, 1)).mean(axis=0, keepdims=True)
        return replace(self, vectors=mean.astype(np.float32), scale=float(np.linalg.norm(mean)))


def check_metric(metric: str, combine: str) -> None:
    """Refuse a combination of scores that an index of this metric cannot give.

    Raises:
        UsageError: the mean of distances, which is no distance to a mean.
    """
    if combine == "mean" and metric not in ("cosine", "ip"):
        raise UsageError(
            f"combine=mean: the scores of this index are of metric {metric}, whose mean is no search for one vector; "
            "choose max, or build the index for cosine"
        )
