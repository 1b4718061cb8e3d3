"""The encoder against plain transformers, on frames that are already cropped.

Plain is what transformers' documentation shows: the model in float32 under `torch.inference_mode`, clip by clip, or in
batches of our size where that is faster. Its pixels are made beforehand; ours start from bytes. Both sides hold the
same weights and run in alternation in one process, after a pass that is not counted; ratios are of each round's times.

    python scripts/bench_encode.py --model DIR [--rounds 5] [--clips 8] [--dtype bfloat16] [--device cuda] [--compile]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vmae_embed.checkpoint import Checkpoint, load_checkpoint
from vmae_embed.encoder import DTYPES, Encoder


def plain(
    checkpoint: Checkpoint, frames: NDArray[np.uint8], device: torch.device, batch_size: int
) -> Callable[[], object]:
    model = checkpoint.backbone.to(device)
    settings = checkpoint.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    scaled = (torch.from_numpy(clip[None]).permute(0, 1, 4, 2, 3) * (settings.rescale or 1) for clip in frames)
    pixels = [(clip - mean) / std for clip in scaled]
    batches = [torch.cat(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size)]

    def run() -> object:
        with torch.inference_mode():
            return [model(batch.to(device)).last_hidden_state.mean(1).cpu() for batch in batches]

    return run


def ours(encoder: Encoder, frames: NDArray[np.uint8]) -> Callable[[], object]:
    """Two batches in flight, from memory that the encoder made, as extraction does it."""
    buffers = []
    for start in range(0, len(frames), encoder.batch_size):
        part = frames[start : start + encoder.batch_size]
        buffer = encoder.empty_batch()[: len(part)]
        buffer[:] = part
        buffers.append(buffer)

    def run() -> object:
        pending, done = [], []
        for buffer in buffers:
            pending.append(encoder.submit(buffer))
            if len(pending) == 2:
                done.append(pending.pop(0).result())
        return done + [waiting.result() for waiting in pending]

    return run


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def clip_flops(config: Any) -> float:
    """Floating-point operations of one clip: two for each weight and token, and attention."""
    width, hidden = config.hidden_size, config.intermediate_size
    patch = config.tubelet_size * config.patch_size**2 * config.num_channels
    tokens = config.num_frames * config.image_size**2 * config.num_channels // patch
    layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    return 2.0 * (tokens * patch * width + config.num_hidden_layers * layer)


def product_rate(device: torch.device) -> float:
    """FLOP/s of a large bfloat16 matrix product on a GPU, here and now."""
    size, passes = 8192, 20
    matrix = torch.randn(size, size, dtype=torch.bfloat16, device=device)

    def run() -> None:
        for _ in range(passes):
            matrix @ matrix
        torch.cuda.synchronize(device)

    run()
    return passes * 2 * size**3 / min(seconds(run) for _ in range(3))


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--batch-size", help="a number, or auto")
    parser.add_argument("--dtype", choices=DTYPES, help="of ours; the default is the encoder's")
    parser.add_argument("--device")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()

    checkpoint = load_checkpoint(arguments.model)
    encoder = Encoder(checkpoint, device=arguments.device, dtype=arguments.dtype, compile=arguments.compile)
    device = encoder.device
    if arguments.batch_size == "auto":
        encoder.find_batch_size()
    elif arguments.batch_size:
        encoder.batch_size = int(arguments.batch_size)
    shape = (arguments.clips, encoder.frames, *encoder.preprocessing.crop, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sides = {
        "plain, batch 1": plain(checkpoint, frames, device, 1),
        f"plain, batch {encoder.batch_size}": plain(checkpoint, frames, device, encoder.batch_size),
        "ours": ours(encoder, frames),
    }
    precision = encoder.identity["precision"]
    print(f"{time.strftime('%Y-%m-%d')}, {machine(device)}, torch {torch.__version__}, {arguments.clips} clips")
    print(f"ours: {precision}, batch {encoder.batch_size}, {'compiled' if arguments.compile else 'eager'}")
    warm_up = {side: seconds(run) for side, run in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, run in sides.items():
            times[side].append(seconds(run))
            print(f"  {side}: {times[side][-1]:.2f} s", flush=True)
    for side, values in times.items():
        rates = [arguments.clips / value for value in values]
        print(
            f"{side:<16} median {statistics.median(rates):8.2f} clips/s, best {max(rates):8.2f}; "
            f"first pass {warm_up[side]:.1f} s"
        )
    *plains, _ = times.values()
    ratios = [min(both) / mine for *both, mine in zip(*plains, times["ours"], strict=True)]
    spread = [round(ratio, 2) for ratio in ratios]
    print(f"best plain / ours: median {statistics.median(ratios):.2f}   {spread}")
    if device.type == "cuda":
        rate = clip_flops(checkpoint.backbone.config) * arguments.clips / min(times["ours"])
        bound = product_rate(device)
        print(f"ours, best: {rate / 1e12:.1f} TFLOP/s, {rate / bound:.0%} of a bfloat16 product's {bound / 1e12:.1f}")
        print(f"peak memory of both: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on the device")
    else:
        print(f"peak memory of both: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
