"""The frozen encoder: frames to embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.checkpoint import DEFAULT_MODEL, Checkpoint, load_checkpoint
from vmae_embed.errors import UsageError
from vmae_embed.preprocess import Preprocessing, normalise

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "first-token")
DTYPES = ("float32", "bfloat16", "float16")

# Clips in one forward pass. On a CPU more gains nothing; a GPU of 16 GB holds 64 of the base model.
_BATCH_SIZE = {"cpu": 8, "mps": 8, "cuda": 64}


class Encoder:
    """A VideoMAE encoder without its head.

    Attributes:
        frames: T, the number of frames that a clip must have.
        width: D, of an embedding.
        preprocessing: the checkpoint's own.
        batch_size: clips in one forward pass.
        device: where it runs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str = "mean",
    ) -> None:
        import torch

        self._checkpoint = checkpoint
        self._pooling = _check_pooling(pooling)
        self.device = _check_device(device)
        self._dtype = _check_dtype(dtype)
        self._backbone = checkpoint.backbone.to(self.device, self._dtype)
        # The position table is no parameter or buffer: left alone it would stay on the CPU and
        # cross to the device at every forward pass.
        embeddings = self._backbone.embeddings
        embeddings.position_embeddings = embeddings.position_embeddings.to(self.device, self._dtype)
        norm = checkpoint.pooled_norm
        self._pooled_norm = norm.to(self.device, torch.float32) if norm is not None else None
        config = self._backbone.config
        self.frames: int = config.num_frames
        self.width: int = config.hidden_size
        self.preprocessing: Preprocessing = checkpoint.preprocessing
        self.batch_size = _BATCH_SIZE.get(self.device.type, 8)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str = "mean",
    ) -> Encoder:
        """Load an encoder.

        Args:
            model: a hub id, or a local directory in the hub's layout.
            revision: branch, tag or commit of the hub repository.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None takes a GPU where there is one.
            dtype: of the forward pass: ``"float32"`` (the default), ``"bfloat16"`` or ``"float16"``.
            pooling: ``"mean"`` of the tokens, or ``"first-token"``. ``"cls"`` means the latter:
                VideoMAE has no CLS token.

        Raises:
            CheckpointError: the checkpoint cannot be found, is no VideoMAE, or its weights do not fit.
            UsageError: no such pooling, dtype or device.
        """
        _check_pooling(pooling, warn=False)
        _check_device(device)
        _check_dtype(dtype)
        return cls(load_checkpoint(model, revision), device=device, dtype=dtype, pooling=pooling)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two embeddings comparable, and where they came from; ready for JSON."""
        return {
            "checkpoint": self._checkpoint.name,
            "revision": self._checkpoint.revision,
            "weights_sha256": self._checkpoint.weights_sha256,
            "pooling": self._pooling,
            "norm": "fc_norm of the pooled token" if self._pooled_norm is not None else "layernorm of the tokens",
            "frames": self.frames,
            "width": self.width,
            "precision": str(self._dtype).removeprefix("torch."),
        }

    def encode(self, frames: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed clips.

        Args:
            frames: uint8 RGB ``(B, T, H, W, C)``, or B arrays ``(T, H, W, C)`` of any sizes.

        Returns:
            ``(B, D)`` float32. For a fine-tuned checkpoint under mean pooling this is exactly the
            input of its classifier.

        Raises:
            UsageError: the array is of another dtype or shape, or T is not the checkpoint's.
        """
        cropped = [self._crop(clip, i) for i, clip in enumerate(frames)]
        if not cropped:
            return np.empty((0, self.width), dtype=np.float32)
        batches = [
            self.encode_cropped(np.stack(cropped[start : start + self.batch_size]))
            for start in range(0, len(cropped), self.batch_size)
        ]
        return np.concatenate(batches)

    def encode_cropped(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch of clips that `Preprocessing` has already resized and cropped.

        Args:
            frames: ``(B, T, H, W, 3)`` uint8, H and W as the checkpoint crops.

        Returns:
            ``(B, D)`` float32.
        """
        import torch

        with torch.inference_mode():
            pixels = normalise(torch.from_numpy(frames).to(self.device), self.preprocessing, self._dtype)
            tokens = self._backbone(pixels).last_hidden_state.to(torch.float32)
            pooled = tokens.mean(1) if self._pooling == "mean" else tokens[:, 0]
            if self._pooled_norm is not None:
                pooled = self._pooled_norm(pooled)
            embeddings: NDArray[np.float32] = pooled.cpu().numpy()
            return embeddings

    def _crop(self, clip: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
            raise UsageError(
                f"clip {index} is {clip.dtype} of shape {tuple(clip.shape)}; give uint8 of shape (T, H, W, 3)"
            )
        if len(clip) != self.frames:
            raise UsageError(f"clip {index} has {len(clip)} frames; this checkpoint takes {self.frames}")
        return np.stack([self.preprocessing(frame) for frame in clip])


def _check_pooling(pooling: str, *, warn: bool = True) -> str:
    if pooling == "cls":
        if warn:
            warnings.warn(
                "VideoMAE has no CLS token; pooling 'cls' takes the first token, which is the top-left patch "
                "of the first two frames (say 'first-token' to mean that)",
                stacklevel=2,
            )
        return "first-token"
    if pooling not in POOLINGS:
        raise UsageError(f"pooling={pooling!r}: choose one of {', '.join(POOLINGS)} (or cls for first-token)")
    return pooling


def _check_device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device={str(device)!r}: not to be had here ({reason})") from error
    return chosen


def _check_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    import torch

    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r}: choose one of {', '.join(DTYPES)}")
    chosen: torch.dtype = getattr(torch, name)
    return chosen
