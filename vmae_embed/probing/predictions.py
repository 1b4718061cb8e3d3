"""What a kept probe says of clips that nobody labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from vmae_embed.library import Library
from vmae_embed.probes import SavedProbe


def predictions(saved: SavedProbe, library: Library, *, count: int = 1, per_clip: bool = False) -> list[dict[str, Any]]:
    """Name a library's clips, or its videos by the mean of their clips' probabilities.

    Args:
        saved: of the library's encoder: see `vmae_embed.probes.SavedProbe.check`.
        library: to name.
        count: labels of each, the most probable first; all if there are fewer.
        per_clip: name each clip by itself.

    Returns:
        Rows of ``video_id``, then ``clip_id``, ``start_s`` and ``end_s`` or the number of ``clips``,
        ``label`` and ``probability``; by video and start.
    """
    clips = library.table(["clip_id", "video_id", "start_s", "end_s"]).to_pylist()
    order = sorted(range(len(clips)), key=lambda row: (clips[row]["video_id"], clips[row]["start_s"]))
    probabilities = saved.probe.predict_proba(library.embeddings()[order])
    clips = [clips[row] for row in order]
    if per_clip:
        named = [{name: clip[name] for name in ("video_id", "clip_id", "start_s", "end_s")} for clip in clips]
    else:
        place = {video: number for number, video in enumerate(dict.fromkeys(clip["video_id"] for clip in clips))}
        codes = np.array([place[clip["video_id"]] for clip in clips], dtype=np.intp)
        summed, held = np.zeros((len(place), probabilities.shape[1])), np.bincount(codes, minlength=len(place))
        np.add.at(summed, codes, probabilities)
        probabilities = summed / np.maximum(held, 1)[:, None]
        named = [{"video_id": video, "clips": int(held[number])} for video, number in place.items()]
    labels = saved.probe.classes_.tolist()
    return [
        {**row, "label": labels[code], "probability": float(shares[code])}
        for row, shares in zip(named, probabilities, strict=True)
        for code in np.argsort(-shares, kind="stable")[:count]
    ]
