"""From an image of any size to class ids of the same size."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from famseg.data.transforms import Letterbox


@dataclass(frozen=True)
class Predictor:
    """A network with all that its input needs.

    Attributes:
        model: image (B, 1, H, W) -> logits (B, classes, H, W), in evaluation mode.
        classes: class names in the order of the outputs -> ids.
        size: height and width that images are letterboxed to.
        mean: grey mean of the training split, of values in 0..1.
        std: grey standard deviation of the training split.
    """

    model: nn.Module
    classes: Mapping[str, int]
    size: tuple[int, int]
    mean: float
    std: float

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W), float32, of normalised images (B, 1, H, W) of `size` on any device."""
        output: Tensor = self.model(images.to(next(self.model.parameters()).device)).float()
        return output

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Logits (classes, h, w) of an image (h, w), uint8; logits are resized, labels never."""
        letterbox = Letterbox(self.size)
        values = torch.from_numpy(letterbox.apply(image))[None, None].float() / 255
        return letterbox.restore(self((values - self.mean) / self.std), (image.shape[0], image.shape[1]))[0]

    def mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids (h, w) of an image (h, w), uint8."""
        ids = np.array(list(self.classes.values()), np.uint8)
        mask: NDArray[np.uint8] = ids[self.logits(image).argmax(0).cpu().numpy()]
        return mask
