"""Extraction against the script that a user would write: decord, transformers and a loop.

Both sides read the same files, cut the same clips (16 frames, stride 4, touching windows and a
last one at the end), use the same checkpoint in float32, and write their embeddings to disk. They
run in alternation in fresh processes; the ratio is of their wall times.

    python scripts/bench_extract.py VIDEO... --model DIR [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def plain(videos: list[str], model: str, folder: Path) -> int:
    """What the model cards and decord's README lead to; the final norm and the tail done right."""
    import decord
    import torch
    from transformers import (
        AutoConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessorPil,
    )

    processor = VideoMAEImageProcessorPil.from_pretrained(model)
    finetuned = AutoConfig.from_pretrained(model).use_mean_pooling
    loaded = (VideoMAEForVideoClassification if finetuned else VideoMAEForPreTraining).from_pretrained(model).eval()
    embeddings = []
    for video in videos:
        reader = decord.VideoReader(video)
        starts = list(range(0, max(len(reader) - 64, 0) + 1, 64))
        if starts[-1] + 64 < len(reader):
            starts.append(len(reader) - 64)
        for start in starts:
            indices = [min(start + 4 * i, len(reader) - 1) for i in range(16)]
            frames = list(reader.get_batch(indices).asnumpy())
            with torch.no_grad():
                tokens = loaded.videomae(processor(frames, return_tensors="pt")["pixel_values"]).last_hidden_state
                pooled = tokens.mean(1)
                embeddings.append((loaded.fc_norm(pooled) if finetuned else pooled).numpy())
    np.save(folder / "embeddings.npy", np.concatenate(embeddings))
    return len(embeddings)


def ours(videos: list[str], model: str, folder: Path) -> int:
    import vmae_embed as ve

    encoder = ve.Encoder.from_pretrained(model)
    return len(ve.extract(videos, folder / "lib", encoder=encoder, sampling=ve.Sampling(frames=16, stride=4)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            clips = {"plain": plain, "ours": ours}[arguments.side](arguments.videos, arguments.model, Path(folder))
            print(json.dumps({"clips": clips, "seconds": time.perf_counter() - begun}))
        return
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(arguments.rounds):
        counts = {}
        for side, values in seconds.items():
            command = [sys.executable, __file__, *arguments.videos, "--model", arguments.model, "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            values.append(result["seconds"])
            counts[side] = result["clips"]
        if counts["plain"] != counts["ours"]:
            sys.exit(f"the sides made different numbers of clips: {counts}")
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    machine = platform.processor() or platform.machine()
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, {counts['ours']} clips, loading included")
    for side, values in seconds.items():
        print(f"{side:<6}median {statistics.median(values):7.1f} s   {[round(value, 1) for value in values]}")
    print(f"plain / ours: median {statistics.median(ratios):.2f}   {[round(ratio, 2) for ratio in ratios]}")


if __name__ == "__main__":
    main()
