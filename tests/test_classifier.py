"""The classifier against plain transformers, on equal pixels, and checkpoints that have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEForVideoClassification

from tests.checkpoints import save_checkpoint
from tests.test_encoder import clips, reference_pixels, relative_error
from vmae_embed.checkpoint import load_checkpoint
from vmae_embed.classifier import Classifier
from vmae_embed.encoder import Encoder
from vmae_embed.errors import CheckpointError, UsageError

NAMES = {0: "playing guitar", 1: "playing cello", 2: "abseiling", 3: "yoga", 4: "tap dancing"}
POOLINGS = {True: "mean", False: "first-token"}


@pytest.fixture(scope="module", params=[True, False], ids=["mean", "first-token"])
def finetuned(request, tmp_path_factory):
    """A checkpoint of either kind of head, and the pooling that it takes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return save_checkpoint(folder, "finetuned", use_mean_pooling=request.param, id2label=NAMES), POOLINGS[request.param]


def three_labels():
    weight = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    return Classifier(weight, np.array([0, 0, -1], np.float32), ("a", "b", "c"), "mean")


def test_logits_are_those_of_transformers(finetuned):
    folder, pooling = finetuned
    frames = clips()
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(reference_pixels(folder, frames)).logits
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype="float32", pooling=pooling)
    embeddings = encoder.encode(frames)
    ours = encoder.classifier().logits(embeddings)
    assert ours.dtype == np.float32
    assert relative_error(ours, expected.numpy()) < 1e-5
    probabilities = encoder.classifier().probabilities(embeddings)
    assert np.abs(probabilities - expected.softmax(1).numpy()).max() < 1e-5


def test_its_labels_are_the_checkpoints(finetuned):
    classifier = load_checkpoint(finetuned[0]).classifier
    assert classifier.labels == tuple(NAMES.values())
    assert classifier.pooling == finetuned[1]


def test_other_pooling_is_refused(finetuned):
    folder, pooling = finetuned
    other = "first-token" if pooling == "mean" else "mean"
    with pytest.raises(UsageError, match=rf"takes {pooling} pooling, .* made with {other}; give --pooling {pooling}"):
        Encoder.from_pretrained(folder, device="cpu", pooling=other).classifier()


@pytest.mark.parametrize("layout", ["pretrained", "bare"])
def test_a_pretrained_checkpoint_has_none(tmp_path, layout):
    encoder = Encoder.from_pretrained(save_checkpoint(tmp_path, layout), device="cpu")
    with pytest.raises(CheckpointError, match=r"has no classifier.* give a fine-tuned checkpoint"):
        encoder.classifier()


def test_a_head_that_is_not_in_the_file_is_not_made_up(tmp_path):
    folder = save_checkpoint(tmp_path, "finetuned")
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(folder).classifier is None


def test_a_head_without_labels_is_none(tmp_path):
    assert load_checkpoint(save_checkpoint(tmp_path, "finetuned", num_labels=0)).classifier is None


def test_probabilities_of_large_logits():
    found = three_labels().probabilities(np.array([[1000, 0], [0, 0]], np.float32))
    e = np.exp(-1.0)
    assert found == pytest.approx(np.array([[1, 0, e], [1, 1, e]]) / [[1 + e], [2 + e]], abs=1e-6)


def test_the_best_come_first():
    classifier = three_labels()
    assert classifier.best(np.array([0.25, 0.5, 0.25]), 2) == [("b", 0.5), ("a", 0.25)]
    assert [label for label, _ in classifier.best(np.array([0.1, 0.2, 0.7]), 10)] == ["c", "b", "a"]


def test_the_hash_knows_weights_and_names():
    classifier = three_labels()
    others = [
        replace(classifier, weight=classifier.weight * 2),
        replace(classifier, bias=classifier.bias + 1),
        replace(classifier, labels=("a", "c", "b")),
    ]
    assert classifier.sha256 == three_labels().sha256
    assert len({classifier.sha256, *(other.sha256 for other in others)}) == 4
