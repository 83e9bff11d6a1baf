"""From a sample to an item of a batch: letterboxed, in output indices, normalised."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from famseg.data.progress import parallel
from famseg.data.sampler import Key
from famseg.data.source import Pixels, Sample, Source
from famseg.data.store import Entry, Histogram, Known, Prepared, Store, shared_store
from famseg.data.transforms import Letterbox
from famseg.errors import UserError

Item = dict[str, Any]
Pair = tuple[Pixels, Pixels]

_STACKED = ("image", "mask", "known", "index", "grey", "labels", "draw")
_NO_CLASS = 255


class Augment(Protocol):
    """Changes an image and its mask, both uint8 (H, W), by what follows from `seed`."""

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> Pair:
        """The changed pair, of the same shapes."""
        ...


class Preparation:
    """What is done alike to every image of a source, and the memory of what is done already.

    Args:
        source: The data set.
        letterbox: To the network's input size.
        classes: Classes in the order of a model's outputs; those that the source labels are among them.
        mean: Of x/255 over the training images; None until `measure`.
        std: Likewise.

    Attributes:
        shown: Ids in the labels of the images that `measure` has seen.

    Raises:
        UserError: The source labels a class that is not among `classes`.
    """

    def __init__(
        self,
        source: Source,
        letterbox: Letterbox,
        classes: Mapping[str, int],
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        self.source = source
        self.letterbox = letterbox
        self.mean, self.std = mean, std
        self.shown: set[int] = set()
        self._names = list(classes)
        self._outputs = _output_table(source.classes, classes)
        self._memory: dict[int, Entry] = {}
        self._kept: Store = self._memory

    def keep(self, indices: Sequence[int], what: str) -> None:
        """Decode images in parallel and keep them in memory."""
        todo = [index for index in indices if index not in self._memory]
        self._memory.update(zip(todo, parallel(self._read, todo, what), strict=True))

    def keep_on_disk(self, folder: Path | None, used: Sequence[int]) -> None:
        """Keep all images in a file that other processes share; it is written first if there is none.

        Raises:
            UserError: The file cannot be written, or one of the images that are `used` cannot be decoded.
        """
        stamp, size = self.source.stamp(), self.letterbox.size
        self._kept = shared_store(folder, stamp, size, self._names, len(self.source), self._read)
        for index in used:
            if index not in self._kept:
                self._read(index)

    def forget(self) -> None:
        """Give the memory back."""
        self._memory.clear()

    def measure(self, indices: Sequence[int], what: str) -> None:
        """Measure mean and std when they are not yet known, over the images without their padding, in any order.

        The same look at the images says which classes they show.
        """
        if self.mean is None or self.std is None:
            counts = np.zeros(256, np.int64)
            outputs = np.zeros(256, np.int64)
            kept = all(index in self._kept for index in indices)
            entries = map(self._entry, indices) if kept else parallel(self._entry, indices, what)
            for prepared, more in entries:
                counts += more
                outputs += np.bincount(prepared.mask.ravel(), minlength=256)
            self.shown = {number for number in self.source.classes.values() if outputs[self._outputs[number]]}
            self.mean, self.std = _mean_and_std(counts)

    def get(self, index: int) -> Prepared:
        """A sample at the network's input size, from where it is kept if it is."""
        return self._entry(index)[0]

    def _entry(self, index: int) -> Entry:
        return self._kept[index] if index in self._kept else self._read(index)

    def tensors(self, index: int, image: Pixels, mask: Pixels | None, known: Known) -> Item:
        """`image` float32 (1, H, W), normalised; `mask` int64 (H, W), if there is one; `known` (classes,); `index`."""
        values = self.normalised(torch.from_numpy(image)[None].float())  # (1, H, W)
        labels = {} if mask is None else {"mask": torch.from_numpy(mask).long()}
        return {"image": values, "known": torch.from_numpy(known), "index": index} | labels

    def normalised(self, grey: Tensor) -> Tensor:
        """Values 0 to 255 -> what the network takes."""
        if self.mean is None or self.std is None:
            raise RuntimeError("mean and std are not measured yet: call `setup` or `measure` first")
        return (grey / 255 - self.mean) / self.std

    def outputs(self, sample: Sample) -> Pixels:
        """The sample's mask as output indices, uint8 (h, w).

        Raises:
            UserError: The sample has no mask, or label ids that no class has.
        """
        if sample.mask is None:
            raise UserError(f"{sample.name}: has no label. Add one, or remove the image.")
        outputs: Pixels = self._outputs[sample.mask]  # (h, w)
        if outputs.max() == _NO_CLASS:
            unknown = sorted(set(np.unique(sample.mask).tolist()) - set(self.source.classes.values()))
            raise UserError(f"{sample.name}: label ids {unknown} belong to no class of {dict(self.source.classes)}.")
        return outputs

    def known(self, sample: Sample) -> Known:
        """Which of the model's classes the sample's mask marks wherever they are; the background always counts."""
        names = enumerate(self._names)
        return np.array([i == 0 or sample.known is None or name in sample.known for i, name in names])

    def _read(self, index: int) -> Entry:
        """A sample at the network's input size, and how many pixels of the image have each grey level."""
        sample = self.source[index]
        image, mask = self.letterbox.apply(sample.image), self.letterbox.apply_mask(self.outputs(sample))
        inside = image[self.letterbox.area((sample.image.shape[0], sample.image.shape[1]))]
        return Prepared(image, mask, self.known(sample)), np.bincount(inside.ravel(), minlength=256)


def sample_seed(seed: int, key: Key) -> int:
    """The seed of a sample's augmentation."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])


class TrainItems(Dataset[Item]):
    """Augmented pairs by (epoch, index, copy); the draw follows from these and the seed alone."""

    def __init__(self, prepare: Preparation, augment: Augment | None, seed: int) -> None:
        self._prepare, self._augment, self._seed = prepare, augment, seed

    def __getitem__(self, key: Key) -> Item:
        _, index, _ = key
        image, mask, known = self._prepare.get(index)
        if self._augment is not None:
            image, mask = self._augment(image, mask, sample_seed(self._seed, key))
        return self._prepare.tensors(index, image, mask, known)


class ValItems(Dataset[Item]):
    """Pairs as they are."""

    def __init__(self, prepare: Preparation) -> None:
        self._prepare = prepare

    def __getitem__(self, index: int) -> Item:
        return self._prepare.tensors(index, *self._prepare.get(index))


class EvaluationItems(Dataset[Item]):
    """Pairs with their originals, which are decoded here, one at a time: at full size a set need not fit in memory."""

    def __init__(self, prepare: Preparation) -> None:
        self._prepare = prepare

    def __getitem__(self, index: int) -> Item:
        sample, box = self._prepare.source[index], self._prepare.letterbox
        mask = None if sample.mask is None else box.apply_mask(self._prepare.outputs(sample))
        return self._prepare.tensors(index, box.apply(sample.image), mask, self._prepare.known(sample)) | {
            "name": sample.name,
            "spacing": sample.spacing,
            "size": (sample.image.shape[0], sample.image.shape[1]),
            "original_mask": sample.mask,
            "truth": dict(sample.truth),
            "known_names": sample.known,
        }


def collate(items: Sequence[Item]) -> Item:
    """Stack what is alike in all items; keep lists of everything else, which may differ in size."""
    return {
        key: default_collate([item[key] for item in items]) if key in _STACKED else [item[key] for item in items]
        for key in items[0]
    }


def _output_table(labelled: Mapping[str, int], outputs: Mapping[str, int]) -> NDArray[np.uint8]:
    """Label id -> index of the model's output."""
    if unknown := [name for name in labelled if name not in outputs]:
        raise UserError(f"the data set labels {unknown[0]}, which the model does not know (it knows {list(outputs)}).")
    table = np.full(256, _NO_CLASS, np.uint8)
    for name, number in labelled.items():
        table[number] = list(outputs).index(name)
    return table


def _mean_and_std(counts: Histogram) -> tuple[float, float]:
    """Of x/255, from the number of pixels of each grey level: exact, whatever the order of the images."""
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    variance = float(counts @ (levels - mean) ** 2 / counts.sum())
    return mean, max(variance**0.5, 1 / 255)  # an all-grey set must not divide by 0
