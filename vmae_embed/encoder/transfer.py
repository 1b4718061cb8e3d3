"""Frames to the device and embeddings back, while the device computes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import VmaeEmbedError

if TYPE_CHECKING:
    import torch


class Pending:
    """Embeddings on their way.

    Args:
        frames: kept alive until the device has read them.
        embeddings: ``(B, D)`` float32 in the host's memory, whole when ``ready`` has happened.
        ready: None where they are whole already.
    """

    def __init__(
        self, frames: NDArray[np.uint8], embeddings: torch.Tensor, ready: torch.cuda.Event | None = None
    ) -> None:
        self._frames = frames
        self._embeddings = embeddings
        self._ready = ready

    def result(self) -> NDArray[np.float32]:
        """Wait for the device; return the embeddings, ``(B, D)``. The frames' memory is free from here on."""
        if self._ready is not None:
            self._ready.synchronize()
        # A copy: pinned memory goes back to torch, which would otherwise have to ask the driver for more.
        embeddings: NDArray[np.float32] = self._embeddings.numpy().copy()
        return embeddings


class Link:
    """The way between a host's memory and a device.

    On CUDA, frames are copied on a stream of their own, beside what computes; a copy from memory that is not
    pinned is whole when `upload` returns, as torch does it.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return memory that `upload` copies from fastest: pinned on CUDA. Its content is arbitrary."""
        import torch

        try:
            memory = torch.empty(shape, dtype=torch.uint8, pin_memory=self._copies is not None)
        except RuntimeError as error:
            size = f"{math.prod(shape) / 2**30:.1f} GiB"
            raise VmaeEmbedError(
                f"no memory for a batch ({size}); try a smaller --batch-size or fewer --workers"
            ) from error
        frames: NDArray[np.uint8] = memory.numpy()
        return frames

    def upload(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Return the frames on the device, ready for what the current stream does next."""
        import torch

        on_host = torch.from_numpy(frames)
        if self._copies is None:
            return on_host.to(self._device)
        with torch.cuda.stream(self._copies):
            on_device = on_host.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copies)
        # Allocated on one stream and used on another: without this the memory could be given away too early.
        on_device.record_stream(computing)
        return on_device

    def download(self, embeddings: torch.Tensor, frames: NDArray[np.uint8]) -> Pending:
        """Send embeddings to the host behind all that the current stream has to do for them."""
        import torch

        if self._copies is None:
            return Pending(frames, embeddings.cpu())
        on_host = torch.empty(embeddings.shape, dtype=embeddings.dtype, pin_memory=True)
        on_host.copy_(embeddings, non_blocking=True)
        ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(self._device))
        return Pending(frames, on_host, ready)
