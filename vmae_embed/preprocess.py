"""From uint8 frames to what the encoder was trained on.

Resizing and cropping are done here, in the decoding process, so that no more than T x 224 x 224 x 3
bytes a clip leave it; what rescaling and normalising do is part of the encoder's first product.
Both do as transformers' `VideoMAEImageProcessorPil` does with the checkpoint's own settings.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pillow's number of its bilinear filter, which antialiases.
BILINEAR = 2


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A checkpoint's preprocessing, as its ``preprocessor_config.json`` states it.

    Attributes:
        shortest_edge: pixels that the shorter side is resized to; None if ``resize`` is fixed.
        resize: ``(height, width)`` that every frame is resized to; None to keep the aspect ratio.
        crop: ``(height, width)`` of the centre crop, which is what the encoder takes.
        resample: Pillow's number of the resampling filter, such as `BILINEAR`.
        rescale: factor from uint8 to real numbers; None leaves them.
        mean: per channel, subtracted after rescaling.
        std: per channel, divided by.
        crop_at: where along the longer side the crop lies: 0 at its start, 0.5 in the centre, as
            checkpoints have it, 1 at its end. The other side is cropped in its centre.
    """

    shortest_edge: int | None
    resize: tuple[int, int] | None
    crop: tuple[int, int]
    resample: int
    rescale: float | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_at: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Return the settings ready for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocessing:
        """Read back what `to_dict` wrote."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**values)

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop one frame.

        Only the pixels that the crop keeps are computed, so that a strip of 65535 x 1 pixels is
        not blown up to 14.7 million x 224. Pillow may then swap its two passes, which round to
        whole grey levels in between: pixels may differ by one from a crop of the whole.

        Args:
            frame: ``(H, W, 3)`` uint8.

        Returns:
            ``(crop height, crop width, 3)`` uint8.
        """
        from PIL import Image

        height, width = frame.shape[:2]
        crop_height, crop_width = self.crop
        if (height, width) == self.crop and self.resized(height, width) == self.crop:
            return frame
        resized_height, resized_width = self.resized(height, width)
        if resized_height < crop_height or resized_width < crop_width:
            return self._crop_with_border(frame, resized_height, resized_width)
        top, left = self.corner(resized_height, resized_width)
        # The crop, in the frame's own pixels: Pillow resamples this box as it would the whole.
        across, down = width / resized_width, height / resized_height
        box = (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)
        box = (box[0], box[1], min(box[2], width), min(box[3], height))
        image = Image.fromarray(frame).resize((crop_width, crop_height), Image.Resampling(self.resample), box=box)
        return np.asarray(image)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width, in pixels, that a frame of this size is resized to before the crop."""
        if self.resize is not None:
            return self.resize
        if self.shortest_edge is None:
            return height, width
        short, long = min(height, width), max(height, width)
        longer = int(self.shortest_edge * long / short)
        return (longer, self.shortest_edge) if width <= height else (self.shortest_edge, longer)

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Return the first row and column, in pixels, that the crop keeps of a frame that has been resized to this."""
        down, across = (self.crop_at, 0.5) if height > width else (0.5, self.crop_at)
        return math.floor((height - self.crop[0]) * down), math.floor((width - self.crop[1]) * across)

    def _crop_with_border(self, frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """Centre a frame that is smaller than the crop on black, as transformers does."""
        from PIL import Image

        crop_height, crop_width = self.crop
        resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling(self.resample)))
        canvas = np.zeros((max(height, crop_height), max(width, crop_width), 3), dtype=np.uint8)
        top, left = -((height - canvas.shape[0]) // 2), -((width - canvas.shape[1]) // 2)
        canvas[top : top + height, left : left + width] = resized
        top, left = self.corner(*canvas.shape[:2])
        return np.ascontiguousarray(canvas[top : top + crop_height, left : left + crop_width])
