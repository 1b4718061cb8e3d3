"""Our forward pass against transformers' own, in every precision, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import VideoMAEImageProcessorPil

from tests.checkpoints import SMALL, save_checkpoint
from vmae_embed.checkpoint import load_checkpoint
from vmae_embed.encoder import Encoder, choices
from vmae_embed.encoder.attention import _ROWS, attend
from vmae_embed.encoder.forward import VideoTransformer
from vmae_embed.errors import CheckpointError

# Of the published base checkpoints, but for the number of layers where a test says so.
BASE = {
    "image_size": 224,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def scenes(count, size, seed=0):
    """Clips as a camera sees them, smooth in space and time, from dark to bright."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 16, 7, 7, 3)).cumsum(1) * 20 + np.linspace(20, 230, count).reshape(-1, 1, 1, 1, 1)
    images = coarse.clip(0, 255).astype(np.uint8).reshape(-1, 7, 7, 3)
    large = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images]
    return np.stack(large).reshape(count, 16, size, size, 3)


def reference(folder, frames, pooling):
    """transformers' backbone over its own image processor's pixels, pooled as the layout says."""
    checkpoint = load_checkpoint(folder)
    processor = VideoMAEImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        pixels = torch.cat([processor(list(clip), return_tensors="pt")["pixel_values"] for clip in frames])
        tokens = checkpoint.backbone(pixels).last_hidden_state
        pooled = tokens.mean(1) if pooling == "mean" else tokens[:, 0]
        return (pooled if checkpoint.pooled_norm is None else checkpoint.pooled_norm(pooled)).numpy()


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 0.5},
        {"qkv_bias": False, "qv_bias": False},
        {"num_attention_heads": 2},
        {"tubelet_size": 4},
        {"patch_size": 8},
        {"image_size": 40},
        {"num_frames": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_every_setting_does_what_it_does_in_transformers(tmp_path, layout, changes):
    folder = save_checkpoint(tmp_path, layout, **changes)
    frames = scenes(2, changes.get("image_size", 32))[:, : changes.get("num_frames", 16)]
    ours = Encoder.from_pretrained(folder, device="cpu", dtype="float32").encode(frames)
    assert relative_error(ours, reference(folder, frames, "mean")) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pooling", ["mean", "first-token"])
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_reduced_precision_stays_close_for_every_clip(tmp_path, layout, pooling, dtype):
    folder = save_checkpoint(tmp_path, layout, image_size=64, num_hidden_layers=6)
    frames = scenes(8, 64)
    exact = reference(folder, frames, pooling)
    ours = Encoder.from_pretrained(folder, device="cpu", dtype=dtype, pooling=pooling).encode(frames)
    assert ours.dtype == np.float32
    assert cosines(ours, exact).min() > 0.999
    assert relative_error(ours, exact) > 1e-6  # it is not float32 by another name


@pytest.mark.slow
@pytest.mark.skipif(
    choices.check_dtype(None, torch.device("cpu")) != torch.bfloat16,
    reason="this CPU emulates bfloat16: minutes a clip",
)
@pytest.mark.parametrize("pooling", ["mean", "first-token"])
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_bfloat16_stays_close_at_base_size(tmp_path, layout, pooling):
    folder = save_checkpoint(tmp_path, layout, **BASE, scale=0.02)
    frames = scenes(3, 224)
    ours = Encoder.from_pretrained(folder, device="cpu", dtype="bfloat16", pooling=pooling).encode(frames)
    assert cosines(ours, reference(folder, frames, pooling)).min() > 0.999


@pytest.mark.parametrize("tokens", [5, _ROWS, _ROWS + 1, 2 * _ROWS + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_blocks_is_attention(tokens, dtype):
    torch.manual_seed(0)
    qkv = torch.randn(2, tokens, 3 * 4 * 12).to(dtype)
    query, key, value = (part.unflatten(-1, (4, 12)).transpose(1, 2) for part in qkv.double().chunk(3, dim=-1))
    exact = functional.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).flatten(2)
    ours = attend(qkv, heads=4)
    assert ours.dtype == dtype
    assert (ours.double() - exact).norm() / exact.norm() < (1e-6 if dtype == torch.float32 else 2e-2)


def test_frames_that_are_not_rgb_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path, num_channels=1)
    with pytest.raises(CheckpointError, match="takes 1 channels; video frames have 3"):
        Encoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: layer.register_parameter("gamma", torch.nn.Parameter(torch.ones(1))), "weights of no known use"),
        (lambda layer: setattr(layer, "layernorm_after", torch.nn.Identity()), "has no weight .*layernorm_after"),
    ],
)
def test_weights_that_it_does_not_know_are_refused(tmp_path, change, message):
    """A layer that transformers changes is never computed as it was before."""
    checkpoint = load_checkpoint(save_checkpoint(tmp_path))
    change(checkpoint.backbone.encoder.layer[1])
    with pytest.raises(CheckpointError, match=message):
        VideoTransformer(checkpoint, torch.float32, "mean")


def tokens_of(encoder, frames):
    return encoder.submit(frames, with_tokens=True).result()[:, 1:]


@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_tokens_are_transformers_own(tmp_path, layout):
    folder = save_checkpoint(tmp_path / "ck", layout=layout)
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    frames = scenes(2, encoder.preprocessing.crop[0])
    checkpoint = load_checkpoint(folder)
    processor = VideoMAEImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        pixels = torch.cat([processor(list(clip), return_tensors="pt")["pixel_values"] for clip in frames])
        expected = checkpoint.backbone(pixels).last_hidden_state.numpy()
    tokens = tokens_of(encoder, frames)
    assert tokens.shape == (2, encoder.tokens, encoder.width)
    assert relative_error(tokens, expected) < 1e-5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first-token"])
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_come_along_and_change_no_bit_of_the_embeddings(tmp_path, monkeypatch, layout, pooling, dtype, compiled):
    monkeypatch.setattr(torch, "compile", lambda network, **settings: network)
    folder = save_checkpoint(tmp_path, layout=layout)
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype=dtype, pooling=pooling, compile=compiled)
    encoder.batch_size = 4
    frames = scenes(6, 32)
    both = encoder.submit(frames, with_tokens=True).result()
    assert (both.shape, both.dtype) == ((6, 1 + encoder.tokens, encoder.width), np.float32)
    assert np.array_equal(both[:, 0], encoder.encode_cropped(frames))
    alone = np.concatenate([tokens_of(encoder, clip[None]) for clip in frames])
    assert relative_error(both[:, 1:], alone) < (1e-6 if dtype == "float32" else 1e-2)
    assert not np.array_equal(both[0], both[1])
    assert encoder.submit(frames[:0], with_tokens=True).result().shape == (0, 1 + encoder.tokens, encoder.width)


def test_the_checkpoint_is_left_as_it_was(tmp_path):
    """Two encoders can be made of one, in two precisions."""
    checkpoint = load_checkpoint(save_checkpoint(tmp_path, "finetuned"))
    frames = scenes(1, 32)
    before = Encoder(checkpoint, device="cpu", dtype="float32").encode(frames)
    Encoder(checkpoint, device="cpu", dtype="bfloat16")
    assert np.array_equal(Encoder(checkpoint, device="cpu", dtype="float32").encode(frames), before)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
        ({"avx512f"}, "float32"),
        (set(), "float32"),
    ],
)
def test_the_default_precision_is_what_the_processor_is_fast_in(tmp_path, monkeypatch, flags, precision):
    monkeypatch.setattr(choices, "_cpu_flags", lambda: frozenset(flags))
    folder = save_checkpoint(tmp_path)
    assert Encoder.from_pretrained(folder, device="cpu").identity["precision"] == precision
    assert Encoder.from_pretrained(folder, device="cpu", dtype="float16").identity["precision"] == "float16"


def test_the_processors_flags_are_read_where_there_are_any(monkeypatch):
    assert all(" " not in flag for flag in choices._cpu_flags())
    monkeypatch.setattr(choices.Path, "read_text", lambda *a, **k: "processor\t: 0\nflags\t\t: fpu avx512_bf16\n")
    assert "avx512_bf16" in choices._cpu_flags()

    def absent(*arguments, **named):
        raise FileNotFoundError

    monkeypatch.setattr(choices.Path, "read_text", absent)
    assert choices._cpu_flags() == frozenset()


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_gpu_agrees_with_cpu(tmp_path, layout, dtype, bound):
    folder = save_checkpoint(tmp_path, layout, **{**SMALL, "image_size": 64})
    frames = scenes(5, 64)
    cpu = Encoder.from_pretrained(folder, device="cpu", dtype="float32").encode(frames)
    gpu = Encoder.from_pretrained(folder, device="cuda", dtype=dtype).encode(frames)
    assert relative_error(gpu, cpu) < bound
