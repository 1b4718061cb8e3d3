"""Small seeded checkpoints in the layouts that the hub publishes."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
)

SMALL = {
    "image_size": 32,
    "patch_size": 16,
    "num_frames": 16,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "decoder_hidden_size": 24,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 48,
}
CLASSES = {
    "pretrained": VideoMAEForPreTraining,
    "finetuned": VideoMAEForVideoClassification,
    "bare": VideoMAEModel,
}


def make_model(layout: str, seed: int = 0, scale: float = 0.1, **changes):
    """A model whose every weight is random, biases and norms too, so that nothing can drop out unseen."""
    torch.manual_seed(seed)
    settings = {**SMALL, "use_mean_pooling": layout == "finetuned", **changes}
    if layout == "finetuned":
        settings.setdefault("num_labels", 5)
    model = CLASSES[layout](VideoMAEConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale).add_(parameter.ndim == 1)
    return model


def save_checkpoint(folder: Path, layout: str = "pretrained", seed: int = 0, scale: float = 0.1, **changes) -> Path:
    model = make_model(layout, seed, scale, **changes)
    model.save_pretrained(folder)
    size = model.config.image_size
    VideoMAEImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder
