"""Batches that are made on the network's device: what the loader sends there, and what becomes of it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from famseg.data.items import Item, Preparation, sample_seed
from famseg.data.sampler import Key
from famseg.data.transforms import Augmentation
from famseg.errors import UserError
from famseg.recurring import Recurring

log = logging.getLogger(__name__)

_PICTURES = ("grey", "labels")

Make = Callable[..., tuple[Tensor, Tensor, Tensor]]  # what was sent -> image, mask, known


class RawItems(Dataset[Item]):
    """`index` of a sample; its `draw` where it is augmented; `grey`, `labels` (uint8) and `known` if not on the device.

    All arrays; `collate_raw` makes batches of them.

    Args:
        prepare: Of the images.
        augment: Draws; None: nothing is changed.
        seed: Of the draws.
        pixels: Whether to send the pictures.
    """

    def __init__(self, prepare: Preparation, augment: Augmentation | None, seed: int, pixels: bool) -> None:
        self._prepare, self._augment, self._seed, self._pixels = prepare, augment, seed, pixels

    def __getitem__(self, key: Key | int) -> Item:
        """A sample of training by its key, or one of validation by its index."""
        index = key if isinstance(key, int) else key[1]
        item: Item = {"index": index}
        if self._augment is not None and not isinstance(key, int):
            item["draw"] = self._augment.draw(sample_seed(self._seed, key))
        if self._pixels:
            item["grey"], item["labels"], item["known"] = self._prepare.get(index)
        return item


def collate_raw(items: Sequence[Item]) -> Item:
    """Pictures of several samples as tensors, whose memory the processes share, numbers as arrays.

    To take a tensor from another process takes as long as dozens of launches; an array of a few numbers comes with the
    message itself.
    """
    return {key: _batch_of([item[key] for item in items], key in _PICTURES) for key in items[0]}


def _batch_of(values: Sequence[Any], shared: bool) -> Any:
    return default_collate([torch.from_numpy(value) for value in values]) if shared else np.stack(values)


def with_tensors(batch: Item) -> Item:
    """What `collate_raw` left as arrays as tensors, for a GPU in memory that it reads while the computer goes on."""
    numbers = {key: torch.from_numpy(value) for key, value in batch.items() if isinstance(value, np.ndarray)}
    pin = torch.cuda.is_available()
    return batch | {key: value.pin_memory() if pin else value for key, value in numbers.items()}


class Pictures:
    """Samples that lie on a device as uint8.

    Attributes:
        grey: (N, H, W).
        labels: (N, H, W).
        known: bool (N, classes).
    """

    def __init__(self, prepare: Preparation, indices: Sequence[int], device: torch.device) -> None:
        samples = [prepare.get(index) for index in indices]
        self.grey, self.labels, self.known = (
            torch.from_numpy(np.stack(part)).to(device) for part in zip(*samples, strict=True)
        )
        rows = torch.full((max(indices) + 1,), -1)
        rows[torch.tensor(indices)] = torch.arange(len(indices))
        self._rows = rows.to(device)

    def __call__(self, index: Tensor) -> Item:
        """`grey`, `labels` and `known` of indices (B,) in the source."""
        rows = self._rows[index]
        return {"grey": self.grey[rows], "labels": self.labels[rows], "known": self.known[rows]}


class Assembly:
    """Turns what the loader sent, once it is on the device, into a batch as the loader would have made it.

    On a GPU batches are sent and made on a stream of their own, beside the step before, and by CUDA graphs: launched
    one by one, 90 small operations keep the computer busy for longer than it may take to launch the step that follows.

    Args:
        prepare: Of the images.
        augment: Makes the changes that were drawn.
        classes: Number of classes.
        pictures: Those that lie on the device.
    """

    def __init__(
        self, prepare: Preparation, augment: Augmentation | None, classes: int, pictures: Pictures | None
    ) -> None:
        self._made = partial(_made, prepare, augment, classes, pictures)
        self._makes: dict[tuple[str, ...], Make] = {}  # by the names of what is sent
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def beside(self, device: torch.device) -> Iterator[None]:
        """Where what lies on a GPU is to be sent and made into a batch, so that it waits for no step."""
        if device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))  # for the pictures
        with torch.cuda.stream(self._stream):  # None: as it is
            yield

    @torch.no_grad()
    def __call__(self, batch: Item) -> Item:
        """`image`, `mask`, `known`, `index`, of what was sent `beside`; to be used on the current stream."""
        device, names = batch["index"].device, tuple(batch)
        if names not in self._makes:
            make = partial(self._made, names)
            self._makes[names] = Recurring(make, "made into a batch") if device.type == "cuda" else make
        with self.beside(device):
            image, mask, known = self._makes[names](*batch.values())
        result = {"image": image, "mask": mask, "known": known, "index": batch["index"]}
        if self._stream is not None:
            here = torch.cuda.current_stream(device)
            here.wait_stream(self._stream)
            for tensor in result.values():
                tensor.record_stream(here)  # else its memory would be the next batch's as soon as Python lets it go
        return result


def _made(
    prepare: Preparation,
    augment: Augmentation | None,
    classes: int,
    pictures: Pictures | None,
    names: tuple[str, ...],
    *sent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, mask and known classes of what was sent by these names."""
    batch: Item = dict(zip(names, sent, strict=True))
    raw = batch if pictures is None else batch | pictures(batch["index"])
    grey, mask = raw["grey"][:, None], raw["labels"]
    if augment is not None and "draw" in batch:
        grey, mask = augment.batch(raw["grey"], mask, batch["draw"], classes)
    return prepare.normalised(grey.float()), mask.long(), raw["known"]


def room_for(count: int, size: tuple[int, int], classes: int, device: torch.device | None, share: float) -> bool:
    """Whether samples may lie on a device, with a line in the log if not.

    Args:
        count: Number of samples.
        size: Height and width.
        classes: Number of classes.
        device: Of the network.
        share: Part of the device's memory that they may take.
    """
    if device is None or device.type != "cuda":
        log.info("data.cache=gpu: the network is not on a GPU, images are kept in ram.")
        return False
    needed = count * (2 * size[0] * size[1] + classes)
    free, total = torch.cuda.mem_get_info(device)
    allowed = min(share * total, free)
    if needed > allowed:
        log.warning(
            "data.cache=gpu: %d images take %.2f GiB, allowed are %.2f (data.cache_share=%g of the GPU's memory, and "
            "what is free); they are kept in ram.",
            count,
            needed / 2**30,
            allowed / 2**30,
            share,
        )
    return needed <= allowed


def engine(augment: Any, cache: str, on_gpu: bool) -> str:
    """Who augments: "loader" or "device".

    Args:
        augment: The augmentation, or None.
        cache: Where the pictures lie in the end.
        on_gpu: Whether the network's device is a GPU.

    Raises:
        UserError: The pictures lie on the GPU and are to be augmented in the loader.
    """
    if augment is None:
        return "device" if on_gpu or cache == "gpu" else "loader"
    wanted = augment.engine if isinstance(augment, Augmentation) else "albumentations"
    if cache == "gpu" and wanted == "albumentations":
        raise UserError(
            "data.cache=gpu keeps the images where albumentations cannot reach them. Give data.augment.engine=gpu, or "
            "data.cache=ram."
        )
    return "device" if wanted == "gpu" or cache == "gpu" or (wanted == "auto" and on_gpu) else "loader"
