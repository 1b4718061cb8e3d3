"""Which hits are wanted: all that a search is asked besides its query."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vmae_embed.errors import UsageError

GROUPINGS = ("clip", "video")
COMBINATIONS = ("max", "mean")


@dataclass(frozen=True)
class Wanted:
    """The arguments of `vmae_embed.search` that say which hits are wanted; see there.

    Raises:
        UsageError: one of them is wrong, or two of them contradict each other.
    """

    k: int | None = 10
    group_by: str = "clip"
    include_self: bool = False
    exact: bool = False
    merge_gap: float | None = None
    min_score: float | None = None
    combine: str = "max"

    def __post_init__(self) -> None:
        if self.k is None and self.min_score is None:
            raise UsageError("k=None: give a number of hits, or a min-score that all of them reach")
        if self.k is not None and self.k < 1:
            raise UsageError(f"k={self.k}: give at least 1")
        if self.group_by not in GROUPINGS:
            raise UsageError(f"group-by={self.group_by!r}: choose one of {', '.join(GROUPINGS)}")
        if self.combine not in COMBINATIONS:
            raise UsageError(f"combine={self.combine!r}: choose one of {', '.join(COMBINATIONS)}")
        if self.merge_gap is not None and not self.merge_gap >= 0:
            raise UsageError(f"merge-gap={self.merge_gap:g}: give seconds, from 0 on")
        if self.min_score is not None and math.isnan(self.min_score):
            raise UsageError("min-score=nan: give a number")

    @property
    def floor(self) -> float:
        """The least score of a hit."""
        return -math.inf if self.min_score is None else self.min_score
