"""What callers hold: a loaded encoder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.checkpoint import DEFAULT_MODEL, Checkpoint, load_checkpoint
from vmae_embed.classifier import Classifier
from vmae_embed.encoder.batches import (
    find_batch_size,
    is_out_of_memory,
    measure_rate,
    run_in_parts,
    run_on_cores,
    static_batch_size,
)
from vmae_embed.encoder.choices import check_device, check_dtype, check_pooling
from vmae_embed.encoder.transfer import Link, Pending
from vmae_embed.errors import CheckpointError, UsageError
from vmae_embed.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch


class Encoder:
    """A VideoMAE encoder without its head.

    Attributes:
        frames: T, the number of frames that a clip must have.
        width: D, of an embedding.
        tokens: N, that the network makes of a clip.
        preprocessing: the checkpoint's own.
        batch_size: clips in one forward pass; larger batches are split. It halves when memory runs out.
        device: where it runs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str = "mean",
        compile: bool = False,
    ) -> None:
        import torch

        from vmae_embed.encoder.forward import VideoTransformer

        self._pooling = check_pooling(pooling)
        self.device = check_device(device)
        self._dtype = check_dtype(dtype, self.device)
        self._network = VideoTransformer(checkpoint, self._dtype, self._pooling).to(self.device)
        self._compiled = torch.compile(self._network, dynamic=False) if compile else None
        self._link = Link(self.device)
        self._identity = {
            "checkpoint": checkpoint.name,
            "revision": checkpoint.revision,
            "weights_sha256": checkpoint.weights_sha256,
        }
        config = checkpoint.backbone.config
        self.frames: int = config.num_frames
        self.width: int = config.hidden_size
        self.tokens: int = self._network.patches.positions.shape[-2]
        self.preprocessing: Preprocessing = checkpoint.preprocessing
        self._classifier = checkpoint.classifier
        self.batch_size = static_batch_size(self.device)
        self._threads = torch.get_num_threads()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str = "mean",
        compile: bool = False,
    ) -> Encoder:
        """Load an encoder.

        Args:
            model: a hub id, or a local directory in the hub's layout.
            revision: branch, tag or commit of the hub repository.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None takes a GPU where there is one.
            dtype: of the matrix products: ``"float32"``, ``"bfloat16"`` or ``"float16"``; None takes
                bfloat16 where the hardware has it, and float32 elsewhere.
            pooling: ``"mean"`` of the tokens, or ``"first-token"``. ``"cls"`` means the latter:
                VideoMAE has no CLS token.
            compile: pass the network through ``torch.compile`` at the first batch. Batches are then
                padded to ``batch_size``.

        Raises:
            CheckpointError: the checkpoint cannot be found, is no VideoMAE, or its weights do not fit.
            UsageError: no such pooling, dtype or device.
        """
        check_pooling(pooling, warn=False)
        check_dtype(dtype, check_device(device))
        return cls(load_checkpoint(model, revision), device=device, dtype=dtype, pooling=pooling, compile=compile)

    @classmethod
    def from_identity(
        cls,
        identity: Mapping[str, Any],
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        pooling: str | None = None,
        compile: bool = False,
    ) -> Encoder:
        """Load an encoder like the one that a library was made with; what is said otherwise goes first.

        Args:
            identity: what `identity` was; empty for the defaults of `from_pretrained`.
            model: another hub id or directory, whose revision is then its own.
            revision: of the hub repository.
            device: None takes a GPU where there is one.
            dtype: of the matrix products.
            pooling: of the tokens.
            compile: pass the network through ``torch.compile``.

        Raises:
            CheckpointError, UsageError: as `from_pretrained` does.
        """
        if model is None and identity:
            model, revision = identity["checkpoint"], revision or identity.get("revision")
        return cls.from_pretrained(
            model or DEFAULT_MODEL,
            revision=revision,
            device=device,
            dtype=dtype or identity.get("precision"),
            pooling=pooling or identity.get("pooling", "mean"),
            compile=compile,
        )

    @property
    def compiled(self) -> bool:
        """Whether batches go through ``torch.compile``; False again once that has failed."""
        return self._compiled is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two embeddings comparable, and where they came from; ready for JSON."""
        pools_first = self._network.pooled_norm is not None
        return {
            **self._identity,
            "pooling": self._pooling,
            "norm": "fc_norm of the pooled token" if pools_first else "layernorm of the tokens",
            "frames": self.frames,
            "width": self.width,
            "precision": str(self._dtype).removeprefix("torch."),
        }

    def cropping_at(self, place: float) -> Encoder:
        """Return an encoder of the same weights whose frames are cropped elsewhere.

        Args:
            place: from 0 to 1, as `Preprocessing.crop_at`.
        """
        other = copy.copy(self)
        other.preprocessing = replace(self.preprocessing, crop_at=place)
        return other

    @property
    def token_shape(self) -> tuple[int, int]:
        """(N, D), of a clip's tokens."""
        return self.tokens, self.width

    def cropping_as(self, preprocessing: Preprocessing | None) -> Encoder:
        """Return an encoder of the same weights that crops where a library's frames were cropped; None for itself."""
        return self if preprocessing is None else self.cropping_at(preprocessing.crop_at)

    def classifier(self) -> Classifier:
        """Return the checkpoint's head, which takes this encoder's embeddings.

        Raises:
            CheckpointError: it has none.
            UsageError: it takes tokens that are pooled otherwise.
        """
        name = self._identity["checkpoint"]
        if self._classifier is None:
            raise CheckpointError(
                f"{name} has no classifier, so that it knows no labels; give a fine-tuned checkpoint "
                f"(VideoMAEForVideoClassification), such as {DEFAULT_MODEL}"
            )
        if self._classifier.pooling != self._pooling:
            raise UsageError(
                f"the classifier of {name} takes {self._classifier.pooling} pooling, these embeddings are made with "
                f"{self._pooling}; give --pooling {self._classifier.pooling}, in a library of its own"
            )
        return self._classifier

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
        return self.submit(frames).result()

    def empty_batch(self) -> NDArray[np.uint8]:
        """Return memory for one batch, ``(batch_size, T, H, W, 3)``: on CUDA it is pinned, and copied from fastest."""
        return self._link.empty((self.batch_size, self.frames, *self.preprocessing.crop, 3))

    def submit(self, frames: NDArray[np.uint8], *, with_tokens: bool = False) -> Pending:
        """Begin to embed a batch; on CUDA this returns before it is done.

        Args:
            frames: ``(B, T, H, W, 3)`` uint8, as for `encode_cropped`. Leave them alone until the
                result has been asked for.
            with_tokens: give the tokens that are pooled, too, of the same forward pass.

        Returns:
            What gives the embeddings when asked; with tokens ``(B, 1 + N, D)``, the embeddings first. N is
            frames / tubelet size, times the patches of a frame.
        """
        import torch

        run = partial(self._run, with_tokens=True) if with_tokens else self._run
        with torch.inference_mode():
            embeddings, self.batch_size = run_in_parts(run, frames, self.batch_size)
            return self._link.download(embeddings, frames)

    def find_batch_size(self) -> int:
        """Choose ``batch_size`` by measuring on a GPU, and return it; elsewhere leave the fixed choice.

        Sizes are doubled until that gains less than 5% or memory runs out, without ``torch.compile``.
        """
        import torch

        def rate(size: int) -> float:
            shape = (size, self.frames, *self.preprocessing.crop, 3)
            with torch.inference_mode():
                return measure_rate(self._network, torch.zeros(shape, dtype=torch.uint8, device=self.device))

        if self.device.type == "cuda":
            self.batch_size = find_batch_size(rate)
        return self.batch_size

    def _run(self, clips: NDArray[np.uint8], size: int, **options: bool) -> torch.Tensor:
        """One forward pass of up to ``size`` clips, compiled while that works; options are the network's."""
        import torch

        frames = self._link.upload(clips)
        if self._compiled is not None:
            # One shape compiles once; clips do not see each other, so what fills it up changes nothing.
            padding = frames.new_zeros(size - len(frames), *frames.shape[1:])
            try:
                embeddings: torch.Tensor = self._compiled(torch.cat([frames, padding]), **options)[: len(frames)]
                return embeddings
            except Exception as error:  # compilers raise anything at all: none there, an old one, no disk
                if isinstance(error, RuntimeError) and is_out_of_memory(error):
                    raise
                self._compiled = None
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"torch.compile does not work here; going on without it ({reason})", stacklevel=2)
        if self.device.type == "cpu" and len(frames) > 1:
            return run_on_cores(partial(self._network, **options), frames, self._threads)
        embeddings = self._network(frames, **options)
        return embeddings  # noqa: RET504 (mypy sees Any in what a module returns)

    def _crop(self, clip: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
            raise UsageError(
                f"clip {index} is {clip.dtype} of shape {tuple(clip.shape)}; give uint8 of shape (T, H, W, 3)"
            )
        if len(clip) != self.frames:
            raise UsageError(f"clip {index} has {len(clip)} frames; this checkpoint takes {self.frames}")
        return np.stack([self.preprocessing(frame) for frame in clip])
