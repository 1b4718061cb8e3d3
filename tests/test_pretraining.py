"""The scripts that made the bundled checkpoint: transformers' own loss, resumable, nothing held out is trained on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Scripts import each other by plain names."""
    monkeypatch.syspath_prepend(SCRIPTS)


def small_model(seed=0):
    torch.manual_seed(seed)
    config = VideoMAEConfig(
        image_size=112,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        use_mean_pooling=False,
    )
    return VideoMAEForPreTraining(config).eval()


@pytest.fixture(scope="module")
def clips():
    sys.path.insert(0, str(SCRIPTS))
    from procedural import Dice, random_clips

    return random_clips(Dice(3), 6, frames=16, side=112)


def test_the_loss_is_transformers_own(clips):
    from masked_autoencoder import MEAN, STD, masked_loss, tube_order
    from procedural import Dice

    model = small_model()
    order = tube_order(Dice(1), len(clips), model.config)
    seen = order[:, :5].flatten(1).sort(1).values
    hidden = order[:, 5:].flatten(1).sort(1).values
    mask = torch.ones(len(clips), 392, dtype=torch.bool).scatter(1, seen, False)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        ours = masked_loss(model, clips, seen, hidden)
        theirs = model((clips / 255 - mean) / std, bool_masked_pos=mask).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_tubes_are_one_place_at_all_times():
    from masked_autoencoder import tube_order
    from procedural import Dice

    order = tube_order(Dice(1), 4, small_model().config)
    assert order.shape == (4, 49, 8)
    assert (order % 49 == order[..., :1] % 49).all()
    assert all(len(set(clip.flatten().tolist())) == 392 for clip in order)


def test_a_seed_gives_the_same_clips_and_another_others(clips):
    from procedural import Dice, random_clips

    assert clips.shape == (6, 16, 3, 112, 112)
    assert clips.dtype == torch.uint8
    assert torch.equal(random_clips(Dice(3), 6, frames=16, side=112), clips)
    assert not torch.equal(random_clips(Dice(4), 6, frames=16, side=112), clips)
    assert all(clip.float().std() > 2 for clip in clips)


def test_nothing_held_out_is_trained_on():
    from procedural import motions, shapes, textures

    for module in (motions, shapes, textures):
        assert not set(module.HELD_OUT) & set(module.TRAINED)
        assert not set(module.HELD_OUT.values()) & set(module.TRAINED.values())


@pytest.mark.parametrize("held_out", [False, True])
def test_labelled_clips_hold_every_motion_with_every_look(held_out):
    from procedural import Dice, labelled_clips

    made = labelled_clips(Dice(1), 1, held_out=held_out, frames=16, side=32)
    pairs = set(zip(made.motion.tolist(), made.look.tolist(), strict=True))
    assert len(pairs) == len(made.clips) == len(made.motions) * len(made.looks)
    assert len(made.looks) == len(set(made.looks)) == 8
    moved = made.clips.float().diff(dim=1).abs().mean((1, 2, 3, 4))
    assert held_out is False or (moved > 0.2).all()


def test_pixels_follow_the_motion():
    """A thing on a drawn canvas is where its poses say, in pixels."""
    from procedural.canvas import Canvas
    from procedural.dice import Dice
    from procedural.motions import HELD_OUT, still

    dice, moments = Dice(0), torch.linspace(0, 1, 16)[None]
    canvas = Canvas(still(dice, moments), 64)
    poses = HELD_OUT["circle"](dice, moments)
    canvas.sprite(torch.tensor([0]), torch.ones(1, 3, 8, 8), torch.ones(1, 8, 8), poses, torch.tensor([0.2]))
    shown = canvas.clips()[0, :, 0]
    along = (torch.arange(64) + 0.5) / 32 - 1
    x = (shown.sum(1) * along).sum(1) / shown.sum((1, 2))
    y = (shown.sum(2) * along).sum(1) / shown.sum((1, 2))
    assert torch.allclose(x, poses.x[0], atol=0.02)
    assert torch.allclose(y, poses.y[0], atol=0.02)


def test_standardising_changes_no_reconstruction(clips):
    from checkpoint_export import standardised
    from feature_tests import pooled
    from masked_autoencoder import masked_loss, tube_order
    from procedural import Dice

    model = small_model()
    with torch.no_grad():
        model.videomae.layernorm.bias.normal_()
        model.videomae.layernorm.weight.uniform_(0.5, 2)
        vectors = pooled(model, clips)
        made = standardised(model, vectors)
        assert pooled(made, clips).mean(0).square().mean().sqrt() == pytest.approx(0.05, abs=1e-3)
        order = tube_order(Dice(1), len(clips), model.config)
        tokens = order[:, :5].flatten(1), order[:, 5:].flatten(1)
        before, after = masked_loss(model, clips, *tokens), masked_loss(made, clips, *tokens)
        rounded = masked_loss(made.half().float(), clips, *tokens)
    assert after.item() == pytest.approx(before.item(), rel=1e-4)
    assert rounded.item() == pytest.approx(before.item(), rel=1e-3)


@pytest.fixture
def quick(monkeypatch):
    """Training as it is, with less of everything."""
    import pretrain_demo
    import teaching

    for name, value in {"LOG_EVERY": 2, "WARM_UP": 2, "POOL": 2, "PROBE_EACH": 1}.items():
        monkeypatch.setattr(pretrain_demo, name, value)
    monkeypatch.setattr(teaching, "_BLOCKS", 8)
    return pretrain_demo


@pytest.mark.slow
def test_training_resumes_where_it_was(tmp_path, quick, monkeypatch):
    wanted = {"steps": 8, "seed": 0, "batch": 4, "peak": 1e-3, "reuse": 10.0, "device": torch.device("cpu")}

    def losses(folder):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line[name] for line in lines for name in ("loss", "asked") if name in line]

    quick.train(tmp_path / "whole", **wanted)
    save = quick._save

    def save_and_stop(path, parts, settings, step, seconds):
        save(path, parts, settings, step, seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(quick, "_save", save_and_stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            quick.train(tmp_path / "parts", **wanted)
    monkeypatch.setattr(quick, "_save", save)
    quick.train(tmp_path / "parts", **wanted)
    assert len(losses(tmp_path / "whole")) == 8
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    with pytest.raises(SystemExit, match="was trained with"):
        quick.train(tmp_path / "parts", **{**wanted, "seed": 1})


def test_lessons_are_the_same_for_a_seed():
    from procedural import Dice, taught_clips

    taught = taught_clips(Dice(2), 4, frames=16, side=64)
    assert taught.kinds.shape == (4, 5)
    assert taught.track.shape == (4, 80)
    assert torch.isfinite(taught.track).all()
    assert ((taught.colour >= 0) & (taught.colour <= 1)).all()
    again = taught_clips(Dice(2), 4, frames=16, side=64)
    assert torch.equal(again.clips, taught.clips)
    assert torch.equal(again.track, taught.track)


def test_first_weights_measure_what_changes_and_when():
    """Of two clips, one holds still and then moves, the other the reverse: their mean tokens say so."""
    import initial_weights
    from feature_tests import pooled
    from pretrain_demo import architecture
    from procedural import Dice, random_clips

    torch.manual_seed(0)
    model = VideoMAEForPreTraining(architecture()).eval()
    initial_weights.prepare(model, random_clips(Dice(5), 8, frames=16, side=112))
    still = torch.rand(1, 1, 3, 112, 112, generator=torch.Generator().manual_seed(1)).expand(1, 8, 3, 112, 112)
    late = (torch.cat([still, torch.stack([still[:, 0].roll(8 * t, 3) for t in range(8)], 1)], 1) * 255).byte()
    vectors = pooled(model, torch.cat([late, late.flip(1)]))
    when = slice(20 + 20 + 21, 20 + 20 + 21 + 8)  # after the energies of waves and textures
    moves_late, moves_early = vectors[:, when]
    # The final norm takes from all what one gains, so that each is compared with its reverse.
    assert (moves_late - moves_early)[4:].min() > 0.02
    assert (moves_late - moves_early)[:4].max() < -0.02
