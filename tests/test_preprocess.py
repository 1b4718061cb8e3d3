"""Preprocessing against transformers' own Pillow processor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VideoMAEImageProcessorPil

from vmae_embed.preprocess import Preprocessing

PUBLISHED = Preprocessing(
    shortest_edge=224,
    resize=None,
    crop=(224, 224),
    resample=2,
    rescale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def processor(settings):
    size = {"shortest_edge": settings.shortest_edge}
    if settings.resize:
        size = {"height": settings.resize[0], "width": settings.resize[1]}
    return VideoMAEImageProcessorPil(
        size=size,
        crop_size={"height": settings.crop[0], "width": settings.crop[1]},
        resample=settings.resample,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
    )


def reference(frames, settings):
    return processor(settings)(list(frames), input_data_format="channels_last", return_tensors="pt")["pixel_values"]


def ours(frames, settings):
    cropped = np.stack([settings(frame) for frame in frames])[None]
    scaled = torch.from_numpy(cropped).permute(0, 1, 4, 2, 3) * settings.rescale
    mean, std = (torch.tensor(values).view(1, 1, 3, 1, 1) for values in (settings.mean, settings.std))
    return (scaled - mean) / std


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def assert_within_one_grey_level(a, b):
    """Pillow rounds between its two passes, and may swap them for a crop: one level either way."""
    level = 1 / 255 / 0.224
    assert (a - b).abs().max() <= level * 1.001
    assert abs((a - b).mean()) < level / 20


SIZES = [
    (240, 320),
    (720, 1280),
    (1080, 608),
    (256, 256),
    (131, 227),
    (224, 224),
    (223, 225),
    (17, 200),
    (1, 1),
    (2, 2),
]


@pytest.mark.parametrize("size", SIZES)
def test_same_pixels_as_transformers(size):
    frames = noise(*size)
    assert_within_one_grey_level(ours(frames, PUBLISHED), reference(frames, PUBLISHED))


def test_equal_pixels_give_equal_input():
    frames = noise(224, 224)
    assert (ours(frames, PUBLISHED) - reference(frames, PUBLISHED)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"shortest_edge": 32, "crop": (32, 32)},
        {"shortest_edge": 40, "crop": (32, 32)},
        {"shortest_edge": None, "resize": (32, 32), "crop": (32, 32)},
        {"shortest_edge": 24, "crop": (32, 32)},
        {"shortest_edge": 33, "crop": (64, 20)},
        {"resample": 3},
    ],
)
@pytest.mark.parametrize("size", [(48, 80), (81, 50)])
def test_other_settings_follow_transformers(changes, size):
    settings = dataclasses.replace(PUBLISHED, **changes)
    frames = noise(*size)
    assert_within_one_grey_level(ours(frames, settings), reference(frames, settings))


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (1080, 608), (256, 256)])
def test_crops_lie_along_the_longer_side(size):
    """Where VideoMAE's kinetics.py and ssv2.py put them: resize to 224, then start, middle and end of the rest."""
    (frame,) = noise(*size)[:1]
    height, width = PUBLISHED.resized(*size)
    resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    step = (max(height, width) - 224) / 2
    for number, crop_at in enumerate((0.0, 0.5, 1.0)):
        start = slice(int(number * step), int(number * step) + 224)
        expected = resized[start] if height > width else resized[:, start]
        found = dataclasses.replace(PUBLISHED, crop_at=crop_at)(frame)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("crop_at", [0.0, 1.0])
def test_a_frame_smaller_than_the_crop_keeps_its_border(crop_at):
    settings = dataclasses.replace(PUBLISHED, shortest_edge=24, crop=(32, 32), crop_at=crop_at)
    (frame,) = noise(24, 48)[:1]
    found = settings(frame)
    assert np.array_equal(found[4:28], frame[:, 16:] if crop_at else frame[:, :32])
    assert not found[:4].any()
    assert not found[28:].any()


def test_a_strip_costs_no_more_than_its_crop():
    strip = np.zeros((16, 20000, 3), dtype=np.uint8)
    strip[:, 9990:10010] = 255
    cropped = PUBLISHED(strip)
    assert cropped.shape == (224, 224, 3)
    assert cropped.max() == 255


def test_survives_json():
    assert Preprocessing.from_dict(PUBLISHED.to_dict()) == PUBLISHED
    off_centre = dataclasses.replace(PUBLISHED, crop_at=1.0)
    assert Preprocessing.from_dict(off_centre.to_dict()) == off_centre


def test_settings_from_before_there_was_a_choice_crop_the_centre():
    fields = PUBLISHED.to_dict()
    del fields["crop_at"]
    assert Preprocessing.from_dict(fields) == PUBLISHED
