"""What a kept probe says of clips that nobody labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from vmae_embed.probes import SavedProbe
from vmae_embed.probing.rows import Rows
from vmae_embed.views import rows_of_each


def predictions(saved: SavedProbe, rows: Rows, *, count: int = 1, per_clip: bool = False) -> list[dict[str, Any]]:
    """Name clips, or videos by the mean of their clips' probabilities; each clip by the mean of its crops'.

    Args:
        saved: of the same encoder: see `vmae_embed.probes.SavedProbe.check`.
        rows: to name: `vmae_embed.probing.all_rows`, with tokens where the probe reads them.
        count: labels of each, the most probable first; all if there are fewer.
        per_clip: name each clip by itself.

    Returns:
        Rows of ``video_id``, then ``clip_id``, ``start_s`` and ``end_s`` or the number of ``clips``,
        ``label`` and ``probability``; by video and start.
    """
    clips = rows.clips.select(["clip_id", "video_id", "start_s", "end_s"]).to_pylist()
    found = saved.probe.predict_proba(getattr(rows, saved.probe.reads))
    labels = saved.probe.classes_.tolist()
    named = []
    for several in rows_of_each([clip["clip_id" if per_clip else "video_id"] for clip in clips]):
        first, shares = clips[several[0]], found[several].mean(axis=0)
        about = first if per_clip else {"video_id": first["video_id"], "clips": len(several)}
        for rank, code in enumerate(np.argsort(-shares, kind="stable")[:count]):
            order = first["video_id"], first["start_s"], first["clip_id"], rank
            named.append((order, {**about, "label": labels[code], "probability": float(shares[code])}))
    return [row for _, row in sorted(named, key=lambda item: item[0])]
