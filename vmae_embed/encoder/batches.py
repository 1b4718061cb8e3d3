"""How many clips go through the network at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import VmaeEmbedError

if TYPE_CHECKING:
    import torch

# A larger batch must be worth its memory: it is taken while it gains at least this.
_WORTH = 1.05
_SMALLEST, _LARGEST = 8, 256

# `torch.set_num_threads` writes for the whole process, too: one batch at a time does so.
_threads_are_set = threading.Lock()


def static_batch_size(device: torch.device) -> int:
    """How many clips to take where nobody measured.

    A GPU gets 32, whose 50,000 tokens of the base model are work enough; each decoding process
    fills a batch of its own, so a larger one costs memory many times over.

    A CPU gives each thread a clip: more gain nothing, and Ctrl-C waits for a batch to end.
    """
    import torch

    if device.type == "cpu":
        return torch.get_num_threads()
    return 32 if device.type == "cuda" else 8


def find_batch_size(rate: Callable[[int], float]) -> int:
    """Double the batch while that pays.

    Args:
        rate: clips a second at a batch size.

    Returns:
        The last size that was faster than the one before by 5% and fitted in memory.
    """
    import torch

    best, fastest = 1, 0.0
    size = _SMALLEST
    while size <= _LARGEST:
        try:
            measured = rate(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        if measured < fastest * _WORTH:
            break
        best, fastest = size, measured
        size *= 2
    torch.cuda.empty_cache()
    return best


def run_on_cores(forward: Callable[[torch.Tensor], torch.Tensor], frames: torch.Tensor, threads: int) -> torch.Tensor:
    """Run a batch on a CPU, each clip on a thread of its own.

    Threads that share every matrix product wait for each other hundreds of times a clip. Where the
    cores are shared too, as with decoding processes, each wait lasts until the scheduler has come
    round: 2026-11-21, 2 cores beside other work, 112-pixel clips took 890 ms that way and 16 ms this
    way; on idle cores 12 and 9 ms.

    Args:
        forward: of the network.
        frames: ``(B, ...)``, B at least 1.
        threads: to use in all.

    Returns:
        ``(B, ...)``.
    """
    import torch

    # As many clips at a time as there are threads; those that are left over share the threads out.
    whole = len(frames) // threads * threads

    def embed(clip: torch.Tensor, threads_each: int) -> torch.Tensor:
        torch.set_num_threads(threads_each)
        with torch.inference_mode():
            return forward(clip)

    embeddings: list[torch.Tensor] = []
    with _threads_are_set:
        try:
            for part in (frames[:whole], frames[whole:]):
                if len(part):
                    workers = min(threads, len(part))
                    with ThreadPoolExecutor(workers) as pool:
                        embeddings += pool.map(embed, torch.split(part, 1), [threads // workers] * len(part))
        finally:
            # It counts for the thread that calls it, and for threads that have yet to begin.
            torch.set_num_threads(threads)
    return torch.cat(embeddings)


def measure_rate(forward: Callable[[torch.Tensor], torch.Tensor], frames: torch.Tensor, passes: int = 3) -> float:
    """Time a forward pass on a CUDA device.

    Args:
        forward: of the network.
        frames: a batch on the device.
        passes: timed, after one that is not.

    Returns:
        Clips a second.
    """
    import torch

    forward(frames)
    torch.cuda.synchronize(frames.device)
    begun = time.perf_counter()
    for _ in range(passes):
        forward(frames)
    torch.cuda.synchronize(frames.device)
    return passes * len(frames) / (time.perf_counter() - begun)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device has no memory left: torch's allocator says so, or a library that wanted some."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError) or "STATUS_ALLOC_FAILED" in str(error)


def run_in_parts(
    forward: Callable[[NDArray[np.uint8], int], torch.Tensor], frames: NDArray[np.uint8], size: int
) -> tuple[torch.Tensor, int]:
    """Run a batch in parts no larger than the device's memory takes.

    Args:
        forward: takes a part and the size of parts, which the last one may fall short of; raises
            ``torch.cuda.OutOfMemoryError`` where that is too much.
        frames: ``(B, ...)``; B may be 0.
        size: of the first parts to try.

    Returns:
        The results of all parts, ``(B, ...)``, and the size of part that did fit.

    Raises:
        VmaeEmbedError: not even one clip fits.
    """
    import torch

    while True:
        try:
            starts = range(0, len(frames), size) or [0]
            return torch.cat([forward(frames[start : start + size], size) for start in starts]), size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise VmaeEmbedError(
                    "the device's memory does not hold the encoder and one clip; free some, or use --device cpu"
                ) from error
        # Outside of the handler: the exception holds the frames of the stack, and these the memory.
        torch.cuda.empty_cache()
        size = max(1, min(size, len(frames)) // 2)
