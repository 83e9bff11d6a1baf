"""One look at every image of a set: sizes, intensities, and fingerprints that find copies."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.data.progress import parallel
from famseg.data.source import Pixels, Source

NEAR = 40
"""Fingerprints of copies differ in at most this many of their 255 bits.

Measured on HC18: 81 images, shrunk, cropped, brightened and saved as JPEG, differ from their originals in 28 bits
at most, images of different examinations in 50 at least.
"""
_SIDE = 16


@dataclass(frozen=True)
class Seen:
    """What is remembered of an image.

    Attributes:
        name: As in the source.
        group: Examination or subject.
        shape: Height and width, px.
        spacing: mm per px, nan when unknown.
        areas: Class -> px, for the classes that the image shows, without the background.
        extents: Class -> longest side of the smallest rectangle, however turned, around its pixels, px.
        mean: Of the grey levels, 0 to 255.
        contrast: Their standard deviation.
        digest: Of the pixels: equal for equal images.
        fingerprint: bool (255,), nearly equal for images that look alike.
    """

    name: str
    group: str
    shape: tuple[int, int]
    spacing: float
    areas: Mapping[str, int]
    extents: Mapping[str, float]
    mean: float
    contrast: float
    digest: str
    fingerprint: NDArray[np.bool_]


@dataclass(frozen=True)
class Copies:
    """Two images that are, or nearly are, one.

    Attributes:
        first: Index of one.
        second: Index of the other.
        bits: How many of the 255 bits of their fingerprints differ; -1 when every pixel is equal.
    """

    first: int
    second: int
    bits: int


def survey(source: Source) -> list[Seen]:
    """Decode every image of a source and remember what matters, in its order.

    Raises:
        UserError: An image or label cannot be read.
    """

    def look(index: int) -> Seen:
        sample = source[index]
        height, width = sample.image.shape
        objects = {}
        if sample.mask is not None:
            found = {name: sample.mask == number for name, number in list(source.classes.items())[1:]}
            objects = {name: here for name, here in found.items() if here.any()}
        return Seen(
            name=sample.name,
            group=sample.group,
            shape=(height, width),
            spacing=sample.spacing,
            areas={name: int(here.sum()) for name, here in objects.items()},
            extents={name: _extent(here) for name, here in objects.items()},
            mean=float(sample.image.mean()),
            contrast=float(sample.image.std()),
            digest=hashlib.sha256(f"{height}x{width}".encode() + sample.image.tobytes()).hexdigest(),
            fingerprint=fingerprint(sample.image),
        )

    return list(parallel(look, range(len(source)), "Looking at images"))


def fingerprint(image: Pixels) -> NDArray[np.bool_]:
    """Perceptual hash, bool (255,): which low frequencies of the image's cosine transform are above their median.

    Args:
        image: uint8 (H, W).
    """
    small = cv2.resize(image, (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_SIDE, :_SIDE].ravel()[1:]  # the first is the brightness
    return np.asarray(low > np.median(low))


def copies(seen: Sequence[Seen], near: int = NEAR) -> list[Copies]:
    """Pairs of images that are equal or nearly so, the most alike first."""
    if not seen:
        return []
    signs = np.stack([image.fingerprint for image in seen]).astype(np.float32) * 2 - 1
    bits = np.rint((signs.shape[1] - signs @ signs.T) / 2).astype(int)  # (n, n)
    pairs = np.argwhere(np.triu(bits <= near, 1)).tolist()
    equal = [seen[i].digest == seen[j].digest for i, j in pairs]
    found = [Copies(i, j, -1 if same else int(bits[i, j])) for (i, j), same in zip(pairs, equal, strict=True)]
    return sorted(found, key=lambda pair: pair.bits)


def _extent(region: NDArray[np.bool_]) -> float:
    points = cv2.findNonZero(region.astype(np.uint8))
    return max(cv2.minAreaRect(points)[1]) + 1  # from pixel centres to pixel borders
