"""What a kept probe says of clips that nobody labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from vmae_embed.probes import SavedProbe
from vmae_embed.views import Views, rows_of_each


def predictions(saved: SavedProbe, views: Views, *, count: int = 1, per_clip: bool = False) -> list[dict[str, Any]]:
    """Name clips, or videos by the mean of their clips' probabilities; each clip by the mean of its crops'.

    Args:
        saved: of the same encoder: see `vmae_embed.probes.SavedProbe.check`.
        views: to name.
        count: labels of each, the most probable first; all if there are fewer.
        per_clip: name each clip by itself.

    Returns:
        Rows of ``video_id``, then ``clip_id``, ``start_s`` and ``end_s`` or the number of ``clips``,
        ``label`` and ``probability``; by video and start. A video that not every view holds has none.
    """
    tables = [library.table(["clip_id", "video_id", "start_s", "end_s"]).to_pylist() for library in views.libraries]
    everywhere = views.whole_videos()
    clips = [clip for table in tables for clip in table]
    found = np.concatenate([saved.probe.predict_proba(library.embeddings()) for library in views.libraries])
    labels = saved.probe.classes_.tolist()
    rows = []
    for several in rows_of_each([clip["clip_id" if per_clip else "video_id"] for clip in clips]):
        first = clips[several[0]]
        if first["video_id"] not in everywhere:
            continue
        shares = found[several].mean(axis=0)
        about = dict(first) if per_clip else {"video_id": first["video_id"], "clips": len(several)}
        order = first["video_id"], first["start_s"]
        best = np.argsort(-shares, kind="stable")[:count]
        named = [{**about, "label": labels[code], "probability": float(shares[code])} for code in best]
        rows.append((order, named))
    return [row for _, named in sorted(rows, key=lambda item: item[0]) for row in named]
