"""Pre-train the small VideoMAE that the package brings along (``--model demo``), on generated videos alone.

Masked-autoencoder training of transformers' ``VideoMAEForPreTraining`` as published, but for masking
80% of the tubes (each tubelet's pixels are normalised by themselves), together with questions about
what other clips show (`teaching`). All clips are drawn by `procedural` while it trains. Nothing is read
from anywhere. Killed at any moment, the same command goes on from the last saved state; the same seed
gives the same losses within rounding on the same machine.

    python scripts/pretrain_demo.py -o runs/demo
    python scripts/pretrain_demo.py -o runs/demo --export vmae_embed/checkpoints/demo

The folder holds ``log.jsonl`` (losses, learning rate and, every so often, kNN accuracy on generated
classes of training's own kinds) and ``state.pt``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from checkpoint_export import export
from feature_tests import knn_accuracy, pooled
from initial_weights import prepare
from masked_autoencoder import masked_loss, tube_order
from procedural import Dice, labelled_clips, random_clips
from teaching import Lessons, Questions, taught_loss
from torch import Tensor

FRAMES, SIDE = 16, 112
# Of 49 tubes of 16 x 16 pixels: 80% are masked.
SEEN_TUBES = 10
# Of the 8 moments of the 39 hidden ones, decoded in a step: moments of one tube are much alike.
DECODED_MOMENTS = 3
BLOCK = 16  # clips drawn at a time
POOL = 128  # blocks to draw batches from
PROBE_EACH = 4
MASKED_SHARE = 0.375  # clips that are reconstructed, for each that questions are asked about
HEADS_RATE = 5  # times the learning rate, for the questions' heads
WARM_UP, LOG_EVERY, PROBE_EVERY = 200, 100, 500  # steps


def architecture() -> Any:
    """Four million weights, encoder and decoder: what fits into 10 MB of float16."""
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        image_size=SIDE,
        num_frames=FRAMES,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        decoder_hidden_size=96,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=384,
        use_mean_pooling=False,
    )


class Pool:
    """The newest blocks of an endless row of generated clips; which ones follows from the step alone.

    Drawing a clip costs as much as several steps of training on it, so each is used ``reuse`` times
    on average, under other masks, mirrored, reversed and recoloured.
    """

    def __init__(self, seed: int, device: torch.device, batch: int, reuse: float) -> None:
        self._seed, self._device, self._batch, self._reuse = seed, device, batch, reuse
        self._blocks: deque[Tensor] = deque(maxlen=POOL)
        self._made = 0

    def batch(self, step: int, dice: Dice) -> Tensor:
        """Return ``(B, T, 3, H, W)`` uint8."""
        wanted = max(1, POOL // 8) + int(step * self._batch / (self._reuse * BLOCK))
        for number in range(max(self._made, wanted - POOL), wanted):
            drawn = Dice(_seed_of(self._seed, 1, number), self._device)
            self._blocks.append(random_clips(drawn, BLOCK, frames=FRAMES, side=SIDE))
        self._made = wanted
        block, clip = dice.choice(len(self._blocks), self._batch), dice.choice(BLOCK, self._batch)
        clips = [self._blocks[b][c] for b, c in zip(block.tolist(), clip.tolist(), strict=True)]
        return torch.stack(_varied(dice, clips))


def _seed_of(seed: int, purpose: int, number: int) -> int:
    return (seed * 8 + purpose) * 10_000_000 + number


def _varied(dice: Dice, clips: list[Tensor]) -> list[Tensor]:
    """Reverse, mirror and recolour, each clip by itself: axes T, H and W, and the order of C."""
    flips = dice.chance(0.5, len(clips), 3).tolist()
    orders = torch.rand(len(clips), 3, generator=dice.generator, device=dice.device).argsort(1)
    return [
        clip[:, order].flip([axis for axis, wanted in zip((0, 2, 3), flip, strict=True) if wanted])
        for clip, order, flip in zip(clips, orders, flips, strict=True)
    ]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, a plateau, and a linear fall to nothing over the last fifth.

    Until the fall begins nothing depends on ``steps``: a run may be resumed with another number.
    """
    return peak * min(1.0, (step + 1) / WARM_UP, 5 * (steps - step) / steps)


def optimiser_of(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW as VideoMAE is pre-trained (betas 0.9 and 0.95, decay 0.05 on matrices)."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def train(folder: Path, *, seed: int, steps: int, batch: int, peak: float, reuse: float, device: torch.device) -> Any:
    """Train, or go on training, and return the model."""
    from transformers import VideoMAEForPreTraining

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = VideoMAEForPreTraining(architecture()).to(device)
    prepare(model, random_clips(Dice(_seed_of(seed, 0, 0), device), 4 * BLOCK, frames=FRAMES, side=SIDE))
    questions = Questions(model.config.hidden_size, FRAMES).to(device)
    optimiser = optimiser_of(model)
    asking = torch.optim.AdamW(questions.parameters(), lr=0.0, betas=(0.9, 0.98), fused=True)
    optimisers = ((optimiser, 1), (asking, HEADS_RATE))
    settings = {"seed": seed, "batch": batch, "peak": peak, "reuse": reuse}
    parts = {"model": model, "questions": questions, "optimiser": optimiser, "asking": asking}
    start, spent = _resume(folder / "state.pt", parts, settings, device)
    lessons = Lessons(_seed_of(seed, 5, 0), device, FRAMES, SIDE)
    pool = Pool(seed, device, math.ceil(batch * MASKED_SHARE), reuse)
    judged = labelled_clips(Dice(_seed_of(seed, 3, 0), device), PROBE_EACH, held_out=False, frames=FRAMES, side=SIDE)
    began, losses, answers = time.monotonic() - spent, [], []
    for step in range(start, steps):
        dice = Dice(_seed_of(seed, 2, step), device)
        rate = learning_rate(step, steps, peak)
        for optimiser, times in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = times * rate
        clips = pool.batch(step, dice)
        order = tube_order(dice, len(clips), model.config)
        seen, hidden = order[:, :SEEN_TUBES], order[:, SEEN_TUBES:]
        moments = torch.rand(hidden.shape, generator=dice.generator, device=device).argsort(2)[..., :DECODED_MOMENTS]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = masked_loss(model, clips, seen.flatten(1), hidden.gather(2, moments).flatten(1))
            asked = taught_loss(model, questions, lessons.batch(step, batch, dice), dice)
        model.zero_grad()
        questions.zero_grad()
        (loss + asked).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
        answers.append(asked.item())
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            line = {"step": step + 1, "clips": (step + 1) * batch, "loss": round(sum(losses) / len(losses), 5)}
            line |= {"lr": rate, "seconds": round(time.monotonic() - began, 1)}
            line["asked"] = round(sum(answers) / len(answers), 4)
            losses, answers = [], []
            if (step + 1) % PROBE_EVERY == 0 or step + 1 == steps:
                vectors = pooled(model, judged.clips)
                line |= {name: knn_accuracy(vectors, getattr(judged, name)) for name in ("motion", "look")}
            print(json.dumps(line), flush=True)
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            _save(folder / "state.pt", parts, settings, step + 1, time.monotonic() - began)
    return model


def _save(path: Path, parts: dict[str, Any], settings: dict[str, Any], step: int, seconds: float) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"settings": settings, "step": step, "seconds": seconds}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, parts: dict[str, Any], settings: dict[str, Any], device: torch.device) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["settings"] != settings:
        raise SystemExit(f"{path} was trained with {state['settings']}, not {settings}; give another folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--batch", type=int, default=32, help="clips a step")
    parser.add_argument("--peak", type=float, default=2e-4, help="highest learning rate")
    parser.add_argument("--reuse", type=float, default=10.0, help="times that each generated clip is used, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", type=Path, help="write the checkpoint into this folder at the end")
    given = parser.parse_args()
    model = train(
        given.out,
        seed=given.seed,
        steps=given.steps,
        batch=given.batch,
        peak=given.peak,
        reuse=given.reuse,
        device=torch.device(given.device),
    )
    if given.export:
        dice = Dice(_seed_of(given.seed, 4, 0), torch.device(given.device))
        export(model, given.export, random_clips(dice, 1024, frames=FRAMES, side=SIDE))


if __name__ == "__main__":
    main()
