"""The checkpoint that the package brings along: what transformers makes of it, and worth more than random weights."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEForPreTraining, VideoMAEImageProcessorPil

from vmae_embed.encoder import Encoder

SCRIPTS = Path(__file__).parents[1] / "scripts"
FOLDER = Path(str(files("vmae_embed"))) / "checkpoints" / "demo"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def test_it_is_a_checkpoint_in_the_hubs_layout():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["VideoMAEForPreTraining"]
    assert config["use_mean_pooling"] is False
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000
    card = (FOLDER / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "## Training data",
        "## Evaluation",
        "## Limits",
        "mean colour",
        "frame difference",
    ):
        assert part in card


def test_its_embeddings_are_those_of_plain_transformers():
    # Of the checkpoint's own size: where Pillow resizes for us, pixels may differ by one (see `preprocess`).
    clips = np.random.default_rng(0).integers(0, 256, (2, 16, 112, 112, 3), dtype=np.uint8)
    processor = VideoMAEImageProcessorPil.from_pretrained(FOLDER)
    pixels = torch.cat([processor(list(clip), return_tensors="pt")["pixel_values"] for clip in clips])
    model = VideoMAEForPreTraining.from_pretrained(FOLDER, dtype="float32").eval()
    with torch.no_grad():
        theirs = model.videomae(pixels).last_hidden_state.mean(1).numpy()
    encoder = Encoder.from_pretrained("demo", device="cpu", dtype="float32")
    ours = encoder.encode(clips)
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-5
    assert encoder.identity["checkpoint"] == "demo"


def test_its_name_is_not_a_folders(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Encoder.from_pretrained("demo", device="cpu").width == 192
    assert Encoder.from_identity({"checkpoint": "demo"}, device="cpu").width == 192


@pytest.mark.slow
def test_classes_that_training_never_saw_are_told_apart():
    from feature_tests import knn_accuracy, linear_accuracy, pooled
    from procedural import Dice, labelled_clips

    made = labelled_clips(Dice(77), 4, held_out=True, frames=16, side=112)
    trained = VideoMAEForPreTraining.from_pretrained(FOLDER, dtype="float32").eval()
    torch.manual_seed(77)
    vectors, random = pooled(trained, made.clips), pooled(VideoMAEForPreTraining(trained.config).eval(), made.clips)
    half = torch.arange(len(made.clips)) // 64 % 2
    for labels in (made.motion, made.look):
        chance = 1 / len(labels.unique())
        for of in (knn_accuracy, lambda vectors, labels: linear_accuracy(vectors, labels, half)):
            accuracy = of(vectors, labels)
            assert accuracy >= 3 * chance
            assert accuracy >= 1.5 * of(random, labels)
