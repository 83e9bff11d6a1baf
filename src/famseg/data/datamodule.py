"""From a source to batches: splits, resizing, normalisation, cache and loaders."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from famseg.data.images import MIN_SIDE
from famseg.data.progress import parallel
from famseg.data.sampler import EvaluationSampler, Key, LateLoader, TrainSampler
from famseg.data.source import Pixels, Sample, Source
from famseg.data.splits import Splits, read_split, split_by_group, write_split
from famseg.data.transforms import Letterbox
from famseg.errors import UserError

log = logging.getLogger(__name__)

Item = dict[str, Any]
Pair = tuple[Pixels, Pixels]
_STACKED = ("image", "mask", "index")
_NO_CLASS = 255


class Augment(Protocol):
    """Changes an image and its mask, both uint8 (H, W), by what follows from `seed`."""

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> Pair:
        """The changed pair, of the same shapes."""
        ...


class SegmentationDataModule(LightningDataModule):
    """Batches for training, validation and test from any source.

    Training and validation items: `image` float32 (1, H, W), normalised; `mask` int64 (H, W) of output indices;
    `index` of the sample in the source. Test items add, collated as lists: `name`, `spacing` (mm per px of the original
    image), `size` (height and width of the original), `original_mask` (uint8, ids of the source), `truth` (mm).

    Args:
        source: The data set.
        size: Height and width of the network's input.
        batch_size: Images per batch and device.
        num_workers: Loader processes; None: none on the CPU, up to 8 beside a GPU.
        augment: Changes training pairs; None leaves them.
        fold: Fold that is tested, or "all": every image is tested.
        folds: Number of folds.
        val_fraction: Part of what is not tested that is used for validation.
        split_seed: Seed of the split, independent of `seed`.
        split_file: Split to read instead, as `write_split` writes it.
        seed: Of order and augmentation.
        cache: "ram" decodes and resizes once; "none" each time.
        mean: Of the training images, x/255; None: measured on the training split.
        std: Likewise.
        classes: A model's classes, in the order of its outputs; None: the source's. A model may know more than the
            source labels, not less.

    Attributes:
        splits: Names of train, val and test.
        mean: None until `setup`.
        std: None until `setup`.

    Raises:
        UserError: An option is out of range, or the source cannot be split as asked for.
    """

    # With fewer images than devices some get none; metrics are summed over all.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        source: Source,
        *,
        size: Sequence[int] = (256, 384),
        batch_size: int = 16,
        num_workers: int | None = 0,
        augment: Augment | None = None,
        fold: int | str = 0,
        folds: int = 5,
        val_fraction: float = 0.125,
        split_seed: int = 0,
        split_file: str | Path | None = None,
        seed: int = 0,
        cache: str = "ram",
        mean: float | None = None,
        std: float | None = None,
        classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        _check_options(size, batch_size, cache)
        self.source = source
        self.letterbox = Letterbox((int(size[0]), int(size[1])))
        self.batch_size = batch_size
        self.num_workers = _auto_workers() if num_workers is None else num_workers
        self.augment = augment
        self.seed = seed
        self.cache = cache
        self.mean, self.std = mean, std
        self.classes = dict(classes or source.classes)
        self._outputs = _output_table(source.classes, self.classes)
        self._groups = dict(zip(source.names, source.groups, strict=True))
        self._index = {name: index for index, name in enumerate(source.names)}
        self.splits: Splits = (
            read_split(Path(split_file), self._groups)
            if split_file
            else split_by_group(
                source.names, source.groups, fold=fold, folds=folds, val_fraction=val_fraction, seed=split_seed
            )
        )
        self._pairs: dict[int, Pair] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.letterbox.size

    def indices(self, split: str) -> list[int]:
        """Indices in the source of train, val or test."""
        return [self._index[name] for name in self.splits[split]]

    def write_split(self, path: str | Path) -> None:
        """Write the split as `file,group,split`."""
        write_split(Path(path), self.splits, self._groups)

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint must know to prepare other images alike, in plain values."""
        return {
            "classes": self.classes,
            "size": list(self.size),
            "resize": "letterbox",
            "mean": self.mean,
            "std": self.std,
        }

    def setup(self, stage: str) -> None:
        """Check the source, decode what is kept in memory, measure mean and std.

        Raises:
            UserError: A bad input, with its file; a batch larger than the training split.
        """
        bad = [problem for problem in self.source.problems(decode=False) if problem.fatal]
        if bad:
            more = f" ({len(bad) - 1} more: `famseg data check` lists them)" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}")
        if stage == "fit":
            self._require_a_batch()
            self._decode("val")
        if stage == "fit" or self.mean is None or self.std is None:
            self._decode("train")
        if self.mean is None or self.std is None:
            raise UserError(
                "data.fold=all leaves no training images to take mean and std from. "
                "Give data.mean and data.std; a trained model's checkpoint holds both."
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented, resumable; every batch is full."""
        sampler = TrainSampler(self.indices("train"), self.batch_size, self.seed, self.trainer)
        return self._loader(_TrainSet(self), sampler, LateLoader)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, unchanged."""
        return self._loader(_ValSet(self), EvaluationSampler(self.indices("val"), self.trainer))

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, unchanged, with the originals that metrics in mm need."""
        return self._loader(_TestSet(self), EvaluationSampler(self.indices("test"), self.trainer))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def pair(self, index: int) -> Pair:
        """Letterboxed image and mask of output indices, uint8 (H, W) each, from memory when they are kept there."""
        if index in self._pairs:
            return self._pairs[index]
        return self._letterboxed(self.source[index])

    def tensors(self, index: int, image: Pixels, mask: Pixels | None) -> Item:
        """Normalised item of a letterboxed image and mask."""
        assert self.mean is not None
        assert self.std is not None
        values = (torch.from_numpy(image)[None].float() / 255 - self.mean) / self.std  # (1, H, W)
        item: Item = {"image": values, "index": index}
        if mask is not None:
            item["mask"] = torch.from_numpy(mask).long()
        return item

    def outputs(self, sample: Sample) -> Pixels:
        """The sample's mask as output indices, uint8 (h, w)."""
        if sample.mask is None:
            raise UserError(f"{sample.name}: has no label. Add one, or remove the image.")
        outputs: Pixels = self._outputs[sample.mask]
        if outputs.max() == _NO_CLASS:
            unknown = sorted(set(np.unique(sample.mask).tolist()) - set(self.source.classes.values()))
            raise UserError(f"{sample.name}: label ids {unknown} belong to no class of {dict(self.source.classes)}.")
        return outputs

    def _letterboxed(self, sample: Sample) -> Pair:
        return self.letterbox.apply(sample.image), self.letterbox.apply_mask(self.outputs(sample))

    def _decode(self, split: str) -> None:
        """Keep the split in memory if wished, and measure mean and std on the training split."""
        indices = [index for index in self.indices(split) if index not in self._pairs]
        measure = split == "train" and (self.mean is None or self.std is None)
        if not indices or (self.cache == "none" and not measure):
            return

        def work(index: int) -> tuple[Pair, NDArray[np.int64]]:
            sample = self.source[index]
            pair = self._letterboxed(sample)
            area = self.letterbox.area((sample.image.shape[0], sample.image.shape[1]))
            return pair, np.bincount(pair[0][area].ravel(), minlength=256)

        counts = np.zeros(256, np.int64)
        for index, (pair, histogram) in zip(indices, parallel(work, indices, f"Reading {split} images"), strict=True):
            counts += histogram
            if self.cache == "ram":
                self._pairs[index] = pair
        if measure:
            self.mean, self.std = _mean_and_std(counts)

    def _require_a_batch(self) -> None:
        images = len(self.splits["train"])
        devices = self.trainer.world_size if self.trainer else 1
        if not images:
            raise UserError("data.fold=all leaves no images to train on. Give data.fold a number.")
        if images < self.batch_size * devices:
            raise UserError(
                f"data.batch_size={self.batch_size} on {devices} device(s) is larger than the training split of "
                f"{images} images. Give a smaller data.batch_size."
            )

    def _loader(
        self, dataset: Dataset[Item], sampler: Any, loader: type[DataLoader[Any]] = DataLoader
    ) -> DataLoader[Any]:
        return loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=_one_thread,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class _TrainSet(Dataset[Item]):
    def __init__(self, data: SegmentationDataModule) -> None:
        self._data = data

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        image, mask = self._data.pair(index)
        if self._data.augment is not None:
            draw = np.random.SeedSequence([self._data.seed, epoch, index]).generate_state(1)[0]
            image, mask = self._data.augment(image, mask, int(draw))
        return self._data.tensors(index, image, mask)


class _ValSet(Dataset[Item]):
    def __init__(self, data: SegmentationDataModule) -> None:
        self._data = data

    def __getitem__(self, index: int) -> Item:
        return self._data.tensors(index, *self._data.pair(index))


class _TestSet(Dataset[Item]):
    """Originals are decoded here, one at a time: at full size a set need not fit into memory."""

    def __init__(self, data: SegmentationDataModule) -> None:
        self._data = data

    def __getitem__(self, index: int) -> Item:
        sample = self._data.source[index]
        box = self._data.letterbox
        mask = None if sample.mask is None else box.apply_mask(self._data.outputs(sample))
        return self._data.tensors(index, box.apply(sample.image), mask) | {
            "name": sample.name,
            "spacing": sample.spacing,
            "size": (sample.image.shape[0], sample.image.shape[1]),
            "original_mask": sample.mask,
            "truth": dict(sample.truth),
        }


def collate(items: Sequence[Item]) -> Item:
    """Stack image, mask and index; keep lists of everything else, which may differ in size."""
    return {
        key: default_collate([item[key] for item in items]) if key in _STACKED else [item[key] for item in items]
        for key in items[0]
    }


def _check_options(size: Sequence[int], batch_size: int, cache: str) -> None:
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise UserError(f"data.size={list(size)}: give height and width, each at least {MIN_SIDE} px.")
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size}: give at least 1.")
    if cache not in ("ram", "none"):
        raise UserError(f"data.cache={cache}: give ram or none.")


def _output_table(labelled: Mapping[str, int], outputs: Mapping[str, int]) -> NDArray[np.uint8]:
    """Label id -> index of the model's output."""
    if unknown := [name for name in labelled if name not in outputs]:
        raise UserError(f"the data set labels {unknown[0]}, which the model does not know (it knows {list(outputs)}).")
    table = np.full(256, _NO_CLASS, np.uint8)
    for name, number in labelled.items():
        table[number] = list(outputs).index(name)
    return table


def _mean_and_std(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Of x/255, from the number of pixels of each grey level: exact, whatever the order of the images."""
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    variance = float(counts @ (levels - mean) ** 2 / counts.sum())
    return mean, max(variance**0.5, 1 / 255)


def _auto_workers() -> int:
    return min(8, len(os.sched_getaffinity(0)) - 1) if torch.cuda.is_available() else 0


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads
