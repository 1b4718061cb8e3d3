"""What callers hold: a pre-trained VideoMAE with its decoder.

It is transformers' own ``VideoMAEForPreTraining``, in float32 and a clip at a time: a loss is to be
the published one, and is asked for some hundred clips, not for millions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vmae_embed.checkpoint import DEFAULT_PRETRAINED_MODEL, PretrainedCheckpoint, load_pretrained
from vmae_embed.encoder.batches import is_out_of_memory
from vmae_embed.encoder.choices import check_device
from vmae_embed.errors import CheckpointError, VmaeEmbedError

if TYPE_CHECKING:
    import torch

# Whatever a checkpoint's own statistics are, transformers takes pixels back by ImageNet's before it
# normalises patches, and that is where its loss is reckoned.
_LOSS_MEAN, _LOSS_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Added to the deviation of a patch, so that one of a single colour can be divided by it.
_LOSS_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A clip of which hidden patches were filled in.

    Attributes:
        loss: mean squared error over the hidden patches, as ``VideoMAEForPreTraining`` gives it.
        baseline: the loss of filling each hidden patch with its own mean colour. Where patches are
            normalised (``norm_pix_loss``) this is just below 1, and less where patches are of one colour.
        mask: ``(T/tubelet_size, H/patch_size, W/patch_size)``, True where hidden.
        original: ``(T, H, W, 3)`` uint8.
        reconstructed: likewise; the original but for the hidden patches.
    """

    loss: float
    baseline: float
    mask: NDArray[np.bool_]
    original: NDArray[np.uint8]
    reconstructed: NDArray[np.uint8]


class Reconstructor:
    """A pre-trained VideoMAE, encoder and decoder.

    Attributes:
        name: of the checkpoint.
        frames: T, the number of frames that a clip must have.
        grid: tubelets of a clip, in time, in height and in width.
        normalises_patches: whether it predicts patches less their mean, over their deviation
            (``norm_pix_loss``), as the published ones do.
        preprocessing: the checkpoint's own.
        device: where it runs.
    """

    def __init__(self, checkpoint: PretrainedCheckpoint, *, device: str | torch.device | None = None) -> None:
        config = checkpoint.model.config
        if config.num_channels != 3:
            raise CheckpointError(f"{checkpoint.name}: takes {config.num_channels} channels; video frames have 3")
        self.device = check_device(device)
        self._model = checkpoint.model.to(self.device)
        self._tubelet: int = config.tubelet_size
        self._patch: int = config.patch_size
        height, width = checkpoint.preprocessing.crop
        self.name = checkpoint.name
        self.frames: int = config.num_frames
        self.grid = (self.frames // self._tubelet, height // self._patch, width // self._patch)
        self.normalises_patches: bool = config.norm_pix_loss
        self.preprocessing = checkpoint.preprocessing

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_PRETRAINED_MODEL,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
    ) -> Reconstructor:
        """Load a checkpoint.

        Args:
            model: a hub id, or a local directory in the hub's layout; pre-trained, not fine-tuned.
            revision: branch, tag or commit of the hub repository.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None takes a GPU where there is one.

        Raises:
            CheckpointError: it cannot be found, is no VideoMAE, has no decoder, or its weights do not fit.
            UsageError: no such device.
        """
        check_device(device)
        return cls(load_pretrained(model, revision), device=device)

    def reconstruct(self, frames: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Reconstruction:
        """Hide patches of a clip and fill them in.

        A checkpoint that predicts normalised patches says nothing of their colour and contrast. To
        be looked at, they are given the mean and the deviation of the *original* patch, as the
        published demos do: the picture shows more than the model knows.

        Args:
            frames: ``(T, H, W, 3)`` uint8, resized and cropped by `preprocessing`.
            mask: of the shape of `grid`, True where hidden; see `tube_mask`.

        Raises:
            CheckpointError: the loss is not finite.
            VmaeEmbedError: the device's memory does not hold a clip.
        """
        import torch

        own = self.preprocessing
        scale = 1.0 if own.rescale is None else own.rescale
        mean, std, loss_mean, loss_std = (torch.tensor(v) for v in (own.mean, own.std, _LOSS_MEAN, _LOSS_STD))
        pixels = (torch.from_numpy(frames) * scale - mean) / std
        hidden = torch.from_numpy(mask).flatten()
        loss, predicted = self._forward(pixels, hidden)
        targets = self._cut(pixels * loss_std + loss_mean)[hidden]
        centre = targets.mean(1, keepdim=True)
        deviation = targets.std(1, keepdim=True) + _LOSS_EPSILON if self.normalises_patches else torch.ones(())
        baseline = ((targets - centre) / deviation).square().mean().item()
        if self.normalises_patches:
            predicted = predicted * deviation + centre
        painted = ((predicted - loss_mean) / loss_std * std + mean) / scale
        patches = self._cut(torch.from_numpy(frames))
        patches[hidden] = painted.round().clamp(0, 255).to(torch.uint8)
        return Reconstruction(loss, baseline, mask, frames, self._join(patches).numpy())

    def _forward(self, pixels: torch.Tensor, hidden: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Loss of a clip ``(T, H, W, 3)``, and what is predicted of its hidden patches ``(n, t*p*p, 3)``."""
        import torch

        try:
            with torch.inference_mode():
                output = self._model(
                    pixels.permute(0, 3, 1, 2)[None].to(self.device),
                    bool_masked_pos=hidden[None].to(self.device),
                )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise VmaeEmbedError(
                "the device's memory does not hold the model and one clip; free some, or use --device cpu"
            ) from error
        loss: float = output.loss.item()
        if not math.isfinite(loss):
            raise CheckpointError(f"{self.name}: its loss is not finite; its weights are damaged")
        predicted: torch.Tensor = output.logits[0].cpu()
        return loss, predicted.view(len(predicted), -1, 3)

    def _cut(self, clip: torch.Tensor) -> torch.Tensor:
        """``(T, H, W, 3)`` to patches ``(N, t*p*p, 3)``, in the order of transformers' tokens and of its labels."""
        moments, rows, columns = self.grid
        cut = clip.view(moments, self._tubelet, rows, self._patch, columns, self._patch, 3)
        return cut.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5).flatten(0, 2)

    def _join(self, patches: torch.Tensor) -> torch.Tensor:
        """``(N, t*p*p, 3)`` back to ``(T, H, W, 3)``."""
        cut = patches.view(*self.grid, self._tubelet, self._patch, self._patch, 3)
        return cut.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3).flatten(0, 1)
