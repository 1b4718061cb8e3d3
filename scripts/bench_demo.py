"""Measure the bundled checkpoint: kNN and linear probe beside random weights and simple baselines.

    python scripts/bench_demo.py [--model demo] [--videos ../shared/videos/library]

Prints the tables of its model card. What is chosen (pooling, layer) is chosen on generated classes of
training's own kinds; what is reported is on kinds that training never saw, and on filmed videos.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from descriptors import frame_difference, mean_colour
from feature_tests import knn_accuracy, linear_accuracy, pooled
from initial_weights import prepare
from masked_autoencoder import masked_loss, take, targets, tube_order, tubelets
from procedural import Dice, labelled_clips, random_clips
from torch import Tensor

from vmae_embed.checkpoint import load_checkpoint
from vmae_embed.decode import cropping, decode_clips
from vmae_embed.sampling import Sampling, plan_spans

SEED = 1_000_003  # of no training
Features = Callable[[Tensor], Tensor]


def random_model(like: Any) -> Any:
    """The same architecture as transformers initialises it."""
    from transformers import VideoMAEForPreTraining

    torch.manual_seed(SEED)
    return VideoMAEForPreTraining(like.config).eval()


def first_model(like: Any) -> Any:
    """The same architecture as training starts with it."""
    model = random_model(like)
    prepare(model, random_clips(Dice(SEED), 64, frames=16, side=112))
    return model


def generated(features: dict[str, Features], held_out: bool, each: int) -> None:
    shown = labelled_clips(Dice(SEED + held_out), each, held_out=held_out, frames=16, side=112)
    kinds = f"{len(shown.motions)} motions x {len(shown.looks)} looks"
    kinds += " never seen in training" if held_out else " of training's own kinds"
    print(f"\n### Generated: {len(shown.clips)} clips of {kinds}\n")
    pair = shown.motion * len(shown.looks) + shown.look
    labels = {"motion": shown.motion, "look": shown.look, "both": pair}
    half = torch.arange(len(pair)) // len(pair.unique()) % 2  # every pair is on both sides
    print("| features | " + " | ".join(f"{name}: kNN · linear" for name in labels) + " |")
    print("|---|" + "---|" * len(labels))
    print("| chance | " + " | ".join(f"{1 / len(label.unique()):.3f}" for label in labels.values()) + " |")
    for name, of in features.items():
        vectors = of(shown.clips)
        cells = (f"{knn_accuracy(vectors, y):.3f} · {linear_accuracy(vectors, y, half):.3f}" for y in labels.values())
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def filmed_clips(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decode ``labels.csv``'s videos as the package does: clips, labels, recordings, videos."""
    preprocessing = load_checkpoint("demo").preprocessing
    clips, labels, recordings, videos = [], [], [], []
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            spans = decode_clips(
                str(folder / row["path"]), lambda timeline: plan_spans(timeline, Sampling()), cropping(preprocessing)
            )
            for batch in spans:
                clips.append(torch.from_numpy(batch.frames).permute(0, 3, 1, 2))
                labels.append(row["label"])
                recordings.append(row["recording"])
                videos.append(number)
    codes = (torch.from_numpy(np.unique(names, return_inverse=True)[1]) for names in (labels, recordings))
    return torch.stack(clips), *codes, torch.tensor(videos)


def filmed(features: dict[str, Features], model: Any, folder: Path) -> None:
    clips, labels, recordings, _ = filmed_clips(folder)
    print(
        f"\n### Filmed: {len(clips)} clips of {len(labels.unique())} classes in {len(recordings.unique())} recordings\n"
    )
    print("| features | kNN, other recordings only | linear probe, 4 folds by recording |\n|---|---|---|")
    print(f"| most frequent class | {torch.bincount(labels).max() / len(labels):.3f} | |")
    folds = recordings_in_folds(labels, recordings)
    for name, of in features.items():
        vectors = of(clips)
        knn = knn_accuracy(vectors, labels, groups=recordings)
        linear = [linear_accuracy(vectors, labels, folds == fold) for fold in range(4)]
        print(f"| {name} | {knn:.3f} | {np.mean(linear):.3f} |", flush=True)
    dice = Dice(SEED)
    losses, means = [], []
    with torch.inference_mode():
        for part in clips.split(32):
            order = tube_order(dice, len(part), model.config)
            seen, hidden = order[:, :10].flatten(1), order[:, 10:].flatten(1)
            losses += [masked_loss(model, part, seen, hidden).item()] * len(part)
            wanted = targets(take(tubelets(part, model.config), hidden) / 255)
            means += [wanted.square().mean().item()] * len(part)
    print(f"\nMasked reconstruction of filmed clips, 80% masked: loss {np.mean(losses):.4f}")
    print(f"and of every tubelet painted as its own mean: {np.mean(means):.4f}")


def recordings_in_folds(labels: Tensor, recordings: Tensor) -> Tensor:
    """Deal each class's recordings out to four folds."""
    folds = torch.zeros_like(labels)
    for label in labels.unique():
        for place, recording in enumerate(recordings[labels == label].unique()):
            folds[(labels == label) & (recordings == recording)] = place % 4
    return folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="bundled name or a directory; must have its decoder")
    parser.add_argument("--videos", type=Path, help="folder with labels.csv: path, label, recording")
    parser.add_argument("--each", type=int, default=12, help="generated clips of each pair")
    given = parser.parse_args()
    from transformers import VideoMAEForPreTraining

    folder = Path(__file__).parents[1] / "vmae_embed/checkpoints/demo" if given.model == "demo" else given.model
    model = VideoMAEForPreTraining.from_pretrained(folder, dtype="float32").eval()
    fresh, first = random_model(model), first_model(model)
    print(time.strftime("%Y-%m-%d"))
    layers = range(1, model.config.num_hidden_layers + 1)
    by_layer = {f"layer {layer}, mean": lambda clips, layer=layer: pooled(model, clips, layer) for layer in layers}
    token = {"all layers, first token": lambda clips: pooled(model, clips, first_token=True)}
    generated({**by_layer, **token}, held_out=False, each=max(2, given.each // 3))
    features = {
        "this checkpoint": lambda clips: pooled(model, clips),
        "the weights it starts from": lambda clips: pooled(first, clips),
        "random weights": lambda clips: pooled(fresh, clips),
        "mean colour": mean_colour,
        "frame difference": frame_difference,
    }
    generated(features, held_out=True, each=given.each)
    if given.videos:
        filmed(features, model, given.videos)


if __name__ == "__main__":
    main()
