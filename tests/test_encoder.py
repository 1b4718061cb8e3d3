"""The encoder against plain transformers: both layouts, both poolings, and every way to load it wrong."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEImageProcessorPil

from tests.checkpoints import make_model, save_checkpoint
from vmae_embed.checkpoint import load_checkpoint
from vmae_embed.encoder import Encoder
from vmae_embed.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {layout: save_checkpoint(root / layout, layout) for layout in ("pretrained", "finetuned", "bare")}


def clips(count=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, size, size, 3), dtype=np.uint8)


def reference_pixels(folder, frames):
    processor = VideoMAEImageProcessorPil.from_pretrained(folder)
    return torch.cat([processor(list(clip), return_tensors="pt")["pixel_values"] for clip in frames])


def reference_tokens(folder, layout, pixels):
    """Plain transformers, as its documentation shows it."""
    with torch.no_grad():
        if layout == "finetuned":
            model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
            return model, model.videomae(pixels).last_hidden_state
        model = VideoMAEForPreTraining.from_pretrained(folder).eval()
        return model, model.videomae(pixels).last_hidden_state


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("pooling", ["mean", "first-token"])
@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_parity_with_transformers(folders, layout, pooling):
    frames = clips()
    model, tokens = reference_tokens(folders[layout], layout, reference_pixels(folders[layout], frames))
    pooled = tokens.mean(1) if pooling == "mean" else tokens[:, 0]
    if layout == "finetuned":
        pooled = model.fc_norm(pooled)
    ours = Encoder.from_pretrained(folders[layout], device="cpu", dtype="float32", pooling=pooling).encode(frames)
    assert ours.dtype == np.float32
    assert relative_error(ours, pooled.detach().numpy()) < 1e-5


def test_finetuned_embedding_is_the_classifiers_input(folders):
    frames = clips()
    model = VideoMAEForVideoClassification.from_pretrained(folders["finetuned"]).eval()
    embedding = Encoder.from_pretrained(folders["finetuned"], device="cpu", dtype="float32").encode(frames)
    with torch.no_grad():
        logits = model(reference_pixels(folders["finetuned"], frames)).logits
        ours = model.classifier(torch.from_numpy(embedding))
    assert relative_error(ours.numpy(), logits.numpy()) < 1e-5


def test_final_norms_matter(folders):
    """The test above can fail: without its norm an embedding is another."""
    frames = clips(1)
    _, tokens = reference_tokens(folders["finetuned"], "finetuned", reference_pixels(folders["finetuned"], frames))
    ours = Encoder.from_pretrained(folders["finetuned"], device="cpu").encode(frames)
    assert relative_error(ours, tokens.mean(1).numpy()) > 0.1


@pytest.mark.parametrize("size", [(240, 320), (61, 37)])
def test_from_uint8_frames_of_any_size(folders, size):
    frames = [np.random.default_rng(1).integers(0, 256, (16, *size, 3), dtype=np.uint8)]
    _, tokens = reference_tokens(folders["pretrained"], "pretrained", reference_pixels(folders["pretrained"], frames))
    ours = Encoder.from_pretrained(folders["pretrained"], device="cpu", dtype="float32").encode(frames)[0]
    reference = tokens.mean(1).numpy()[0]
    cosine = ours @ reference / np.linalg.norm(ours) / np.linalg.norm(reference)
    assert cosine > 0.9999


def test_differing_sizes_in_one_call(folders):
    encoder = Encoder.from_pretrained(folders["pretrained"], device="cpu")
    small, large = clips(1)[0], clips(1, size=50)[0]
    together = encoder.encode([small, large])
    assert np.allclose(together, np.concatenate([encoder.encode([small]), encoder.encode([large])]), atol=1e-6)


def test_batches_do_not_change_embeddings(folders):
    encoder = Encoder.from_pretrained(folders["pretrained"], device="cpu")
    frames = clips(5)
    whole = encoder.encode(frames)
    encoder.batch_size = 2
    assert np.allclose(encoder.encode(frames), whole, atol=1e-6)
    assert encoder.encode(frames[:0]).shape == (0, 48)


def test_hub_bias_names_are_loaded(folders):
    """Hub files say q_bias and v_bias; some transformers versions left them zero."""
    stored = load_file(folders["finetuned"] / "model.safetensors")
    assert any(key.endswith("attention.attention.q_bias") for key in stored)
    layer = load_checkpoint(folders["finetuned"]).backbone.encoder.layer[1].attention.attention
    key = "videomae.encoder.layer.1.attention.attention"
    assert torch.equal(layer.query.bias, stored[f"{key}.q_bias"])
    assert torch.equal(layer.value.bias, stored[f"{key}.v_bias"])


def test_new_bias_names_are_loaded_too(folders, tmp_path):
    folder = copy_with(
        folders["pretrained"],
        tmp_path,
        rename=lambda key: key.replace("q_bias", "query.bias").replace("v_bias", "value.bias"),
    )
    frames = clips(1)
    assert np.array_equal(
        Encoder.from_pretrained(folder, device="cpu").encode(frames),
        Encoder.from_pretrained(folders["pretrained"], device="cpu").encode(frames),
    )


def test_pytorch_bin_weights(folders, tmp_path):
    folder = copy_with(folders["pretrained"], tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    plain = Encoder.from_pretrained(folders["pretrained"], device="cpu")
    assert Encoder.from_pretrained(folder, device="cpu").identity["weights_sha256"] == plain.identity["weights_sha256"]


def test_bare_encoder_is_taken_where_it_is_whole(folders):
    encoder = Encoder.from_pretrained(folders["bare"], device="cpu")
    assert encoder.identity["norm"] == "layernorm of the tokens"


def test_bare_finetuned_encoder_without_its_norm_is_refused(tmp_path):
    make_model("bare", use_mean_pooling=True).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"final norm \(fc_norm\) is not in it"):
        Encoder.from_pretrained(tmp_path)


def test_finetuned_without_mean_pooling_norms_its_tokens(tmp_path):
    folder = save_checkpoint(tmp_path, "finetuned", use_mean_pooling=False)
    frames = clips(2)
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        reference = model.videomae(reference_pixels(folder, frames)).last_hidden_state[:, 0]
    assert (
        relative_error(
            Encoder.from_pretrained(folder, device="cpu", dtype="float32", pooling="first-token").encode(frames),
            reference.numpy(),
        )
        < 1e-5
    )


def copy_with(folder, target, *, rename=lambda key: key, drop=(), add=None, config=None):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    weights = {rename(k): v for k, v in load_file(folder / "model.safetensors").items() if k not in drop}
    save_file({**weights, **(add or {})}, target / "model.safetensors", metadata={"format": "pt"})
    if config:
        path = target / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (
            "pretrained",
            {"drop": ["videomae.encoder.layer.0.attention.attention.q_bias"]},
            r"weights missing: .*query\.bias",
        ),
        (
            "pretrained",
            {"drop": ["videomae.layernorm.weight"]},
            r"weights missing: videomae\.layernorm\.weight",
        ),
        ("finetuned", {"drop": ["fc_norm.weight"]}, r"weights missing: fc_norm\.weight"),
        (
            "pretrained",
            {"add": {"videomae.cls_token": torch.zeros(1)}},
            r"weights unexpected: videomae\.cls_token",
        ),
        ("finetuned", {"config": {"architectures": ["VideoMAEModel"]}}, r"weights unexpected: fc_norm"),
        ("pretrained", {"config": {"num_hidden_layers": 3}}, "weights missing"),
        ("pretrained", {"config": {"intermediate_size": 97}}, "weights"),
        ("pretrained", {"config": {"architectures": ["ViTModel"]}}, "architecture ViTModel is none of"),
        ("pretrained", {"config": {"model_type": "timesformer"}}, "not a VideoMAE checkpoint"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(folders, tmp_path, layout, changes, message):
    folder = copy_with(folders[layout], tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["pretrained", "finetuned"])
def test_missing_head_or_decoder_does_not_matter(folders, tmp_path, layout):
    keys = [k for k in load_file(folders[layout] / "model.safetensors") if k.startswith(("decoder.", "classifier."))]
    folder = copy_with(folders[layout], tmp_path, drop=keys)
    frames = clips(1)
    assert np.array_equal(
        Encoder.from_pretrained(folder, device="cpu").encode(frames),
        Encoder.from_pretrained(folders[layout], device="cpu").encode(frames),
    )


def test_garbage_weights_are_one_line(folders, tmp_path):
    folder = copy_with(folders["pretrained"], tmp_path)
    (folder / "model.safetensors").write_bytes(b"garbage" * 100)
    with pytest.raises(CheckpointError, match="its weights cannot be loaded") as caught:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [("/nowhere/at/all", "no such directory"), ("videomae", "no such directory, and not a hub id")],
)
def test_checkpoints_that_are_nowhere(model, message):
    with pytest.raises(CheckpointError, match=message):
        Encoder.from_pretrained(model)


def test_no_network_is_one_line_that_helps(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        CheckpointError, match=r"hf download MCG-NJU/videomae-base-short-ssv2 --local-dir videomae"
    ) as caught:
        Encoder.from_pretrained("MCG-NJU/videomae-base-short-ssv2")
    assert "\n" not in str(caught.value)
    assert "to try things out offline, pass --model demo" in str(caught.value)


def test_directory_without_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        Encoder.from_pretrained(tmp_path)


def test_missing_preprocessor_config_assumes_the_published_one_aloud(folders, tmp_path):
    folder = copy_with(folders["pretrained"], tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"has no preprocessor_config\.json; assuming"):
        encoder = Encoder.from_pretrained(folder, device="cpu")
    assert encoder.preprocessing == Encoder.from_pretrained(folders["pretrained"], device="cpu").preprocessing


def test_the_hubs_old_preprocessor_layout(folders, tmp_path):
    folder = copy_with(folders["pretrained"], tmp_path, config={})
    old = {
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "size": 224,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match="crops to 224x224, its encoder takes 32x32"):
        Encoder.from_pretrained(folder)


def test_cls_is_taken_for_the_first_token_and_says_so_once(folders):
    with pytest.warns(UserWarning, match="VideoMAE has no CLS token") as caught:
        encoder = Encoder.from_pretrained(folders["pretrained"], device="cpu", pooling="cls")
    assert len(caught) == 1
    assert encoder.identity["pooling"] == "first-token"


def test_small_checkpoints_with_the_wrong_heads_warn(tmp_path):
    folder = save_checkpoint(tmp_path, "pretrained", hidden_size=384, num_attention_heads=16, num_hidden_layers=1)
    with pytest.warns(UserWarning, match="names 16 attention heads where VideoMAE-S was trained with 6"):
        Encoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling='max': choose one of mean, first-token"),
        ({"dtype": "int8"}, "dtype='int8': choose one of"),
        ({"device": "warp"}, "device='warp': give cpu, cuda"),
    ],
)
def test_bad_arguments(folders, arguments, message):
    with pytest.raises(UsageError, match=message):
        Encoder.from_pretrained(folders["pretrained"], **arguments)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 8, 32, 32, 3), np.uint8), "has 8 frames; this checkpoint takes 16"),
        (np.zeros((1, 16, 32, 32, 3), np.float32), "is float32 of shape"),
        (np.zeros((16, 32, 32, 3), np.uint8), "give uint8 of shape"),
        (np.zeros((1, 16, 32, 32, 4), np.uint8), "give uint8 of shape"),
        (np.zeros((1, 16, 0, 32, 3), np.uint8), "give uint8 of shape"),
    ],
)
def test_bad_frames(folders, frames, message):
    with pytest.raises(UsageError, match=message):
        Encoder.from_pretrained(folders["pretrained"], device="cpu").encode(frames)


def test_identity_follows_the_weights_and_not_the_file(folders, tmp_path):
    first = Encoder.from_pretrained(folders["pretrained"], device="cpu").identity
    folder = copy_with(
        folders["pretrained"],
        tmp_path,
        rename=lambda k: k.replace("q_bias", "query.bias").replace("v_bias", "value.bias"),
    )
    assert Encoder.from_pretrained(folder, device="cpu").identity["weights_sha256"] == first["weights_sha256"]
    other = Encoder.from_pretrained(folders["finetuned"], device="cpu").identity
    assert other["weights_sha256"] != first["weights_sha256"]
    assert other["norm"] == "fc_norm of the pooled token"


def test_loading_says_nothing_of_its_own(folders, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoder.from_pretrained(folders["finetuned"], device="cpu")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
