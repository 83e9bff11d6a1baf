"""Loaders as users write them, for benchmarks/data.py: decode, letterbox, transform, every time."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from famseg.data.source import Source
from famseg.data.transforms import Letterbox

Batches = Callable[[], Iterator[Any]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Plain(Dataset[tuple[Tensor, Tensor]]):
    """Decode, letterbox, transform, every time."""

    def __init__(self, source: Source, size: tuple[int, int], change: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.source, self.box, self.change = source, Letterbox(size), change

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.source[index]
        mask = cv2.resize(sample.mask, self.box.size[::-1], interpolation=cv2.INTER_NEAREST)
        return self.change(self.box.apply(sample.image), mask)


class Albumentations:
    """The default augmentation as a pipeline of albumentations."""

    def __init__(self) -> None:
        import albumentations as A

        self.pipeline = A.Compose([
            A.HorizontalFlip(p=0.5),
            A.Affine(rotate=(-20, 20), scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), keep_ratio=True, p=0.8),
            A.RandomGamma((70, 130), p=0.5),
            A.RandomBrightnessContrast(0.1, 0.2, p=0.5),
            A.MultiplicativeNoise((0.85, 1.15), elementwise=True, p=0.25),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1.0), p=0.25),
        ])  # fmt: skip

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """A changed, normalised image and its labels."""
        out = self.pipeline(image=image[..., None], mask=mask)
        grey = torch.from_numpy(np.ascontiguousarray(out["image"][..., 0]))[None].float()
        return (grey / 255 - 0.2) / 0.2, torch.from_numpy(out["mask"]).long()


class Torchvision:
    """The same with torchvision's transforms, as far as it has them."""

    def __init__(self) -> None:
        from torchvision.transforms import v2

        affine = v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR)
        self.pipeline = v2.Compose([
            v2.RandomHorizontalFlip(),
            v2.RandomApply([affine], p=0.8),
            v2.RandomApply([v2.ColorJitter(brightness=0.1, contrast=0.2)], p=0.5),
            v2.RandomApply([v2.GaussianBlur(7, (0.01, 1.0))], p=0.25),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.2], [0.2]),
        ])  # fmt: skip

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """A changed, normalised image and its labels."""
        from torchvision import tv_tensors

        pair = tv_tensors.Image(torch.from_numpy(image)[None]), tv_tensors.Mask(torch.from_numpy(mask))
        changed, labels = self.pipeline(*pair)
        return changed, labels.long()


def plain(source: Source, options: argparse.Namespace, change: Callable[..., tuple[Tensor, Tensor]]) -> Batches:
    loader = DataLoader(
        Plain(source, tuple(options.size), change),
        options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=DEVICE.type == "cuda",
        worker_init_fn=one_thread,
    )

    def batches() -> Iterator[Any]:
        for image, mask in loader:
            yield image.to(DEVICE, non_blocking=True), mask.to(DEVICE, non_blocking=True)

    return batches


def one_thread(_: int) -> None:
    cv2.setNumThreads(0)
