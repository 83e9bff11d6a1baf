"""From images of any size to class ids of the same size: one network or several, plain or averaged with the mirror."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from famseg.data.transforms import Letterbox
from famseg.errors import UserError


@dataclass(frozen=True)
class Segmentation:
    """Classes of one image.

    Attributes:
        mask: class ids, uint8 (h, w), of the image's size.
        probability: probability of the class in `mask`, float32 (h, w); that of a network, not a calibrated one.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]

    def confidence(self, id_: int) -> float:
        """Mean probability within the class's region; NaN where the class is not predicted."""
        region = self.mask == id_
        return float(self.probability[region].mean()) if region.any() else math.nan


@dataclass(frozen=True)
class Predictor:
    """A network with all that its input needs.

    Attributes:
        model: image (B, 1, H, W) -> logits (B, classes, H, W), in evaluation mode.
        classes: class names in the order of the outputs -> ids.
        size: height and width that images are letterboxed to.
        mean: grey mean of the training split, of values in 0..1.
        std: grey standard deviation of the training split.
        flip: average with the prediction on the mirrored image (test-time augmentation), for twice the time.
    """

    model: nn.Module
    classes: Mapping[str, int]
    size: tuple[int, int]
    mean: float
    std: float
    flip: bool = False

    @classmethod
    def of(cls, model: nn.Module, data: Mapping[str, Any]) -> "Predictor":
        """A network with the plain values that its file has of its data: `classes`, `size`, `mean`, `std`."""
        height, width = data["size"]
        return cls(model, dict(data["classes"]), (height, width), float(data["mean"]), float(data["std"]))

    @cached_property
    def letterbox(self) -> Letterbox:
        """The resize to `size`, and back."""
        return Letterbox(self.size)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W), float32, of normalised images (B, 1, H, W) of `size` on any device."""
        parameter = next(self.model.parameters(), None)
        images = images.cpu() if parameter is None else images.to(parameter.device, parameter.dtype)
        logits: Tensor = self.model(images).float()
        if not self.flip:
            return logits
        mirrored = self.model(images.flip(-1)).float().flip(-1)
        return torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1))  # twice the mean probability, as logits

    def prepared(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (h, w) of any sizes, uint8, -> normalised (B, 1, H, W) of `size`."""
        values = torch.from_numpy(np.stack([self.letterbox.apply(image) for image in images]))[:, None]
        return (values.float() / 255 - self.mean) / self.std

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Logits (classes, h, w) of an image (h, w), uint8; logits are resized, labels never."""
        return self.letterbox.restore(self(self.prepared([image])), (image.shape[0], image.shape[1]))[0]

    def mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids (h, w) of an image (h, w), uint8."""
        return next(segment([self], [image])).mask


def segment(members: Sequence[Predictor], images: Sequence[NDArray[np.uint8]]) -> Iterator[Segmentation]:
    """Segment a batch of images of any sizes with the mean probability of several networks.

    Args:
        members: networks of the same classes in the same order; their input sizes may differ.
        images: uint8 (h, w) each; as many as the network takes at a time.

    Yields:
        One segmentation per image, in its size.
    """
    ids = np.array(list(members[0].classes.values()), np.uint8)
    outputs = [member(member.prepared(images)) for member in members]
    for i, image in enumerate(images):
        size = (image.shape[0], image.shape[1])
        parts = [
            member.letterbox.restore(output[i : i + 1], size)[0].softmax(0)
            for member, output in zip(members, outputs, strict=True)
        ]
        probability, index = (sum(parts[1:], parts[0]) / len(parts)).max(0)
        yield Segmentation(ids[index.cpu().numpy()], probability.cpu().numpy())


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name}: not available here. Use auto, cpu or cuda.") from error
    return device
