"""Splits, memory and loaders of a data set, for Lightning."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from famseg.data.items import Augment, EvaluationItems, Item, Preparation, TrainItems, ValItems, collate
from famseg.data.on_device import Assembly, Pictures, RawItems, collate_raw, engine, room_for, with_tensors
from famseg.data.refusals import (
    require_all_splits,
    require_no_fatal,
    require_options,
    require_training_images,
    warn,
    warn_of_unshown,
)
from famseg.data.sampler import EvaluationSampler, LateLoader, TrainSampler
from famseg.data.source import Source
from famseg.data.splits import Splits, read_split, split_by_group, thin_out, write_split
from famseg.data.survey import Seen, survey
from famseg.data.transforms import Augmentation, Letterbox
from famseg.data.workers import serve_quietly
from famseg.errors import UserError


class SegmentationDataModule(LightningDataModule):
    """Batches for training, validation and test from any source.

    Training and validation: `image` float32 (B, 1, H, W), normalised; `mask` int64 (B, H, W) of output indices; `known`
    bool (B, classes), the classes that a mask marks wherever they are; `index` int64 (B,) of the samples in the source.
    Test batches add lists: `name`, `spacing` (mm per px of the original), `size` (height and width of the original),
    `original_mask` (uint8 (h, w), ids of the source), `truth` (mm by name), `known_names` (`Sample.known`).

    Args:
        source: The data set.
        size: Height and width of the network's input; images keep their proportions and are padded with zeros.
        batch_size: Images per batch and device.
        num_workers: Loader processes; None: none on the CPU, up to 8 beside a GPU.
        augment: Changes training pairs; None leaves them.
        fold: Fold that is tested, or "all": every image is tested.
        folds: Number of folds.
        val_fraction: Part of what is not tested that is used for validation.
        split_seed: Seed of the split, independent of `seed`.
        stratify: Spread pixel sizes and object sizes evenly over folds, training and validation; decodes every image.
        split_file: Split to read instead, as `write_split` writes it.
        images: At most so many of the split's images, by whole groups; None: all.
        seed: Of order and augmentation.
        cache: Where training and validation images lie, decoded and resized once: "gpu", of the network, if they fit,
            else in "ram"; "disk", in a file that workers and runs share; "none": nowhere, they are decoded each time.
        cache_dir: Folder of such files; None: the user's cache folder.
        cache_share: Part of the GPU's memory that "gpu" may take.
        mean: Of the training images, x/255; None: measured on the training split by `setup`.
        std: Likewise.
        classes: A model's classes, in the order of its outputs; None: the source's. A model may know more than the
            source labels, not less.
        weights: How often an epoch shows each sample of the source (2: twice, 0.5: every other epoch); None: once.

    Attributes:
        splits: Names of train, val and test.

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
        stratify: bool = False,
        split_file: str | Path | None = None,
        images: int | None = None,
        seed: int = 0,
        cache: str = "ram",
        cache_dir: str | Path | None = None,
        cache_share: float = 0.25,
        mean: float | None = None,
        std: float | None = None,
        classes: Mapping[str, int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        require_options(size, batch_size, num_workers, cache, cache_share, mean, std)
        self.source = source
        self.letterbox = Letterbox((int(size[0]), int(size[1])))
        self.batch_size = batch_size
        self.num_workers = _workers_beside_a_gpu() if num_workers is None else num_workers
        self.augment = augment
        self.seed = seed
        self.cache, self.cache_dir, self.cache_share = cache, cache_dir, cache_share
        self.classes = dict(classes or source.classes)
        self._weights, self._split_file = weights, split_file
        self._groups = dict(zip(source.names, source.groups, strict=True))
        self._index = {name: index for index, name in enumerate(source.names)}
        self.splits: Splits = (
            read_split(Path(split_file), self._groups)
            if split_file
            else split_by_group(
                source.names,
                source.groups,
                fold=fold,
                folds=folds,
                val_fraction=val_fraction,
                seed=split_seed,
                traits=[_traits(image) for image in survey(source)] if stratify and fold != "all" else None,
            )
        )
        if images is not None:
            self.splits = thin_out(self.splits, self._groups, images)
        self._prepare = Preparation(source, self.letterbox, self.classes, mean, std)
        self._assembly: Assembly | None = None  # None: the loader makes the batches
        self._pictures: Pictures | None = None
        self._warned = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.letterbox.size

    @property
    def mean(self) -> float | None:
        """Mean of x/255 over the training images; None until `setup`."""
        return self._prepare.mean

    @property
    def std(self) -> float | None:
        """Standard deviation of x/255 over the training images; None until `setup`."""
        return self._prepare.std

    @property
    def lies_on_device(self) -> bool:
        """Whether the images of training lie on the network's device, `cache="gpu"`; known from `setup` on."""
        return self._pictures is not None

    def indices(self, split: str) -> list[int]:
        """Indices in the source of train, val or test."""
        return [self._index[name] for name in self.splits[split]]

    def write_split(self, path: str | Path) -> None:
        """Write the split as `file,group,split`."""
        write_split(Path(path), self.splits, self._groups)

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint must know to prepare other images alike, in plain values."""
        return {
            "classes": dict(self.classes),
            "size": list(self.size),
            "resize": "letterbox",
            "mean": self.mean,
            "std": self.std,
        }

    def setup(self, stage: str) -> None:
        """Check the source, decode what is kept in memory, measure mean and std.

        Raises:
            UserError: A bad input, with its file; to fit, a split without images or a batch larger than the training
                split; nothing to measure on.
        """
        problems = list(self.source.problems(decode=False))
        require_no_fatal(problems)
        if not self._warned:  # `fit` and `test` both come here
            self._warned = True
            warn(problems)
        if stage == "fit":
            require_all_splits(self.splits, self._split_file)
            self._require_a_batch()
        unknown = self.mean is None or self.std is None
        if unknown:
            require_training_images(self.splits)
        cache = self._keep() if stage == "fit" else "none"
        if unknown:
            self._prepare.measure(self.indices("train"), "Reading training images")
        if stage == "fit":
            if unknown:
                warn_of_unshown(self.source, self._prepare.shown)
            self._choose_engine(cache)

    def teardown(self, stage: str) -> None:
        """Give the device's memory back; what is validated or tested later may be so on another one."""
        self._assembly = self._pictures = None

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make tensors of what is to go to the device; only what the device makes batches of comes as arrays."""
        return with_tensors(batch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Send it; what the device makes batches of, beside the step that it is at."""
        with self._assembly.beside(device) if self._assembly and _is_raw(batch) else nullcontext():
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the batch, if that is done on the device, in the run's precision."""
        if self._assembly is None or not _is_raw(batch):
            return batch
        return self.trainer.precision_plugin.convert_input(self._assembly(batch))  # type: ignore[union-attr]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented, resumed where the run stopped; every batch is full."""
        items = self._raw_items() or TrainItems(self._prepare, self.augment, self.seed)
        return self._loader(items, self._train_sampler(), LateLoader)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, unchanged."""
        items = self._raw_items() or ValItems(self._prepare)
        return self._loader(items, EvaluationSampler(self.indices("val"), self.trainer))

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, unchanged, with the originals that metrics in mm need."""
        return self._loader(EvaluationItems(self._prepare), EvaluationSampler(self.indices("test"), self.trainer))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def _keep(self) -> str:
        """Decode what training needs; returns where it lies in the end."""
        train, val = self.indices("train"), self.indices("val")
        cache, size = self.cache, self.letterbox.size
        if cache == "gpu" and not room_for(len(train + val), size, len(self.classes), self._device, self.cache_share):
            cache = "ram"
        if cache == "disk":
            self._prepare.keep_on_disk(Path(self.cache_dir) if self.cache_dir else None, train + val)
        elif cache != "none":
            self._prepare.keep(train, "Reading training images")
            self._prepare.keep(val, "Reading validation images")
        return cache

    def _choose_engine(self, cache: str) -> None:
        self._assembly = self._pictures = None
        device = self._device
        if device is None or engine(self.augment, cache, device.type == "cuda") == "loader":
            return
        if cache == "gpu":
            self._pictures = Pictures(self._prepare, self.indices("train") + self.indices("val"), device)
            self._prepare.forget()
        augment = self.augment if isinstance(self.augment, Augmentation) else None
        self._assembly = Assembly(self._prepare, augment, len(self.classes), self._pictures)

    @property
    def _device(self) -> torch.device | None:
        return self.trainer.strategy.root_device if self.trainer else None

    def _raw_items(self) -> RawItems | None:
        """What the loader sends when the device makes the batches."""
        if self._assembly is None:
            return None
        augment = self.augment if isinstance(self.augment, Augmentation) else None
        return RawItems(self._prepare, augment, self.seed, pixels=self._pictures is None)

    def _train_sampler(self) -> TrainSampler:
        indices = self.indices("train")
        weights = None if self._weights is None else [self._weights[index] for index in indices]
        return TrainSampler(indices, self.batch_size, self.seed, self.trainer, weights)

    def _require_a_batch(self) -> None:
        images, devices = len(self.splits["train"]), self.trainer.world_size if self.trainer else 1
        if not len(self._train_sampler()):
            raise UserError(
                f"data.batch_size={self.batch_size} on {devices} device(s) is larger than the training split of "
                f"{images} images. Give a smaller data.batch_size."
            )

    def _loader(
        self, dataset: Dataset[Item], sampler: Any, loader: type[DataLoader[Any]] = DataLoader
    ) -> DataLoader[Any]:
        numbers_only = self._pictures is not None and isinstance(dataset, RawItems)
        workers = min(1, self.num_workers) if numbers_only else self.num_workers
        return loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate_raw if isinstance(dataset, RawItems) else collate,
            num_workers=workers,
            worker_init_fn=serve_quietly,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available() and not numbers_only,  # by one more thread; `with_tensors` pins them
        )


def _is_raw(batch: Any) -> bool:
    return "image" not in batch


def _traits(image: Seen) -> tuple[float, float]:
    """Pixel size, and the part of the picture that objects fill."""
    height, width = image.shape
    return image.spacing, sum(image.areas.values()) / (height * width)


def _workers_beside_a_gpu() -> int:
    devices = torch.cuda.device_count()
    return min(8, suggested_max_num_workers(devices)) if devices else 0
