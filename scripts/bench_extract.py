"""Extraction against the script that a user would write, and against its own two halves.

All sides read the same files and cut the same clips (16 frames, stride 4, touching windows and a
last one at the end) with the same checkpoint; each runs in a fresh process, in turn.

* plain: decord `get_batch`, `VideoMAEImageProcessorPil` and transformers in float32, in a loop;
* ours: `vmae_embed.extract`, as it is by default;
* decode: our decoding processes alone, their clips thrown away;
* encode: our encoder alone, on clips that lie in memory.

Plain and ours are compared by their whole time, loading included; ours with its halves by the time
from the first video on. On a CPU the halves share the cores: then the most that both together can
reach is 1 / (1 / decode + 1 / encode).

    python scripts/bench_extract.py VIDEO... --model DIR [--rounds 3] [--sides plain ours decode encode]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

Result = tuple[int, float]  # clips, and the seconds that they took once all was loaded
ENCODE_FOR_S = 20.0


def plain(videos: list[str], model: str, folder: Path) -> Result:
    """What the model cards and decord's README lead to; the final norm and the tail done right."""
    import decord
    import torch
    from transformers import (
        AutoConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessorPil,
    )

    begun = time.perf_counter()
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
    return len(embeddings), time.perf_counter() - begun


def ours(videos: list[str], model: str, folder: Path) -> Result:
    from vmae_embed.encoder import Encoder
    from vmae_embed.extractor import run
    from vmae_embed.sampling import Sampling

    encoder = Encoder.from_pretrained(model)
    done = run(videos, folder / "lib", encoder=encoder, sampling=Sampling(frames=encoder.frames, stride=4))
    return done.clips, done.extracting_s


def decode(videos: list[str], model: str, folder: Path) -> Result:
    from vmae_embed.checkpoint import load_checkpoint
    from vmae_embed.pipeline import SLOTS
    from vmae_embed.plan import make_plan
    from vmae_embed.sampling import Sampling
    from vmae_embed.sources import list_videos
    from vmae_embed.workers import ClipDecoded, DecodePool, WorkerConfig

    preprocessing = load_checkpoint(model).preprocessing
    units = make_plan(list_videos(videos).videos, [], {}).units
    config = WorkerConfig(Sampling(stride=4), preprocessing, "auto", False, None, SLOTS, None)
    begun = time.perf_counter()
    with DecodePool(config, min(len(os.sched_getaffinity(0)), len(units))) as pool:
        events = pool.decode((unit.name, unit.videos) for unit in units)
        clips = sum(isinstance(event, ClipDecoded) for event in events)
        return clips, time.perf_counter() - begun


def encode(videos: list[str], model: str, folder: Path) -> Result:
    from vmae_embed.encoder import Encoder

    encoder = Encoder.from_pretrained(model)
    frames = encoder.empty_batch()
    frames[:] = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    encoder.encode_cropped(frames)
    begun, batches = time.perf_counter(), 0
    while time.perf_counter() - begun < ENCODE_FOR_S:
        encoder.encode_cropped(frames)
        batches += 1
    return batches * len(frames), time.perf_counter() - begun


SIDES = {"plain": plain, "ours": ours, "decode": decode, "encode": encode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            clips, inner_s = SIDES[arguments.side](arguments.videos, arguments.model, Path(folder))
            print(json.dumps({"clips": clips, "inner_s": inner_s, "whole_s": time.perf_counter() - begun}))
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in arguments.sides}
    for _ in range(arguments.rounds):
        for side, values in results.items():
            command = [sys.executable, __file__, *arguments.videos, "--model", arguments.model, "--side", side]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            values.append(json.loads(done.stdout.splitlines()[-1]))
    counts = {side: values[0]["clips"] for side, values in results.items() if side != "encode"}
    if len(set(counts.values())) > 1:
        sys.exit(f"the sides made different numbers of clips: {counts}")
    print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, clips: {counts}\n")
    rates = {}
    for side, values in results.items():
        rates[side] = statistics.median(value["clips"] / value["inner_s"] for value in values)
        whole = [round(value["whole_s"], 1) for value in values]
        print(f"{side:<7}{rates[side]:8.2f} clips/s   whole {statistics.median(whole):6.1f} s {whole}")
    if {"plain", "ours"} <= set(results):
        ratios = [a["whole_s"] / b["whole_s"] for a, b in zip(results["plain"], results["ours"], strict=True)]
        print(f"plain / ours, whole time: median {statistics.median(ratios):.2f}   {[round(r, 2) for r in ratios]}")
    if {"ours", "decode", "encode"} <= set(results):
        slower = min(rates["decode"], rates["encode"])
        shared = 1 / (1 / rates["decode"] + 1 / rates["encode"])
        print(f"ours / the slower half: {rates['ours'] / slower:.2f}; / both halves on shared cores: ", end="")
        print(f"{rates['ours'] / shared:.2f}")


if __name__ == "__main__":
    main()
