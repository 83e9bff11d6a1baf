"""The phantom as a source of samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from famseg.classes import BACKGROUND, FEMUR, HEAD, IDS
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.images import MIN_SIDE
from famseg.data.phantom.difficulty import DIFFICULTIES
from famseg.data.phantom.render import render
from famseg.data.phantom.scene import PLANES, Scene, Subject, draw_scene
from famseg.data.phantom.screen import screen
from famseg.data.source import Problem, Sample, Stamp
from famseg.errors import UserError

USUAL_PLANES = {"head": 0.45, "femur": 0.4, "both": 0.15}


class Phantom:
    """Synthetic B-mode images of fetal heads and femurs with exact masks and millimetres.

    Sample `i` is a function of (seed, i) and the other options alone, whatever process, order or thread asks for it.

    Args:
        n: number of images.
        size: height and width in pixels, 32 or more.
        seed: of everything drawn; another seed gives other subjects.
        difficulty: `easy`, `normal` or `hard`.
        images_per_subject: consecutive images that show one fetus (one group).
        planes: share of the images that show a `head`, a `femur`, `both` or `none`.

    Raises:
        UserError: an option is out of its range.
    """

    def __init__(
        self,
        n: int = 500,
        size: Sequence[int] = (256, 256),
        seed: int = 0,
        difficulty: str = "normal",
        images_per_subject: int = 2,
        planes: Mapping[str, float] | None = None,
    ) -> None:
        _check_number("n", n, 1)
        _check_number("seed", seed, 0)
        _check_number("images_per_subject", images_per_subject, 1)
        _check_size(size)
        if difficulty not in DIFFICULTIES:
            raise UserError(f"phantom: difficulty={difficulty!r}; give one of {', '.join(DIFFICULTIES)}")
        self.n, self.seed, self.images_per_subject = n, seed, images_per_subject
        self.height, self.width = size
        self.difficulty = DIFFICULTIES[difficulty]
        self.planes = _checked_planes(USUAL_PLANES if planes is None else planes)

    @cached_property
    def classes(self) -> dict[str, int]:
        """Classes that can occur, with the paper's ids."""
        shown = {plane for plane, share in self.planes.items() if share > 0}
        drawn = {BACKGROUND: True, FEMUR: shown & {"femur", "both"}, HEAD: shown & {"head", "both"}}
        return {name: number for name, number in IDS.items() if drawn[name]}

    @cached_property
    def names(self) -> list[str]:
        """`phantom_00042.png`, ..."""
        return [f"phantom_{index:05d}.png" for index in range(self.n)]

    @cached_property
    def groups(self) -> list[str]:
        """`subject_0021`, ..."""
        return [f"subject_{index // self.images_per_subject:04d}" for index in range(self.n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        """Draw sample `index`."""
        if not 0 <= index < self.n:
            raise IndexError(f"phantom has {self.n} images, asked for number {index}")
        subject, scene, rng = self.scene(index)
        mask = np.zeros((self.height, self.width), np.uint8)
        truth: dict[str, float] = {}
        for item, label in ((scene.femur, IDS[FEMUR]), (scene.head, IDS[HEAD])):
            if item:
                mask[item.mask(self.height, self.width, scene.spacing)] = label
                truth |= item.truth()
        image = render(scene, subject, self.difficulty, rng)
        if rng.random() < self.difficulty.screen:
            screen(image, mask, rng)
        return Sample(self.names[index], self.groups[index], image, mask, scene.spacing, truth)

    def scene(self, index: int) -> tuple[Subject, Scene, np.random.Generator]:
        """Subject and geometry of sample `index`, and the generator that draws the rest of it."""
        family = np.random.default_rng(np.random.SeedSequence([self.seed, index // self.images_per_subject, 1]))
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, index]))
        subject = Subject.draw(family)
        plane = self._plane(index)
        return subject, draw_scene(subject, plane, self.height, self.width, self.difficulty, rng), rng

    def _plane(self, index: int) -> str:
        """Golden-ratio steps: the shares hold in every short stretch, so that small sets have all classes."""
        names = list(self.planes)
        bounds = np.cumsum(list(self.planes.values()))
        position = (self.seed * 0.7548776662 + (index + 0.5) * 0.6180339887) % 1.0 * bounds[-1]
        return names[int(np.searchsorted(bounds, position, side="right"))]

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """None: drawn data has no bad files."""
        return iter(())

    def stamp(self) -> Stamp:
        """Of the options: there are no files."""
        options = {
            "kind": "phantom",
            "n": self.n,
            "size": [self.height, self.width],
            "seed": self.seed,
            "difficulty": asdict(self.difficulty),
            "images_per_subject": self.images_per_subject,
            "planes": list(self.planes.items()),
        }
        return Stamp(options)


def _check_number(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UserError(f"phantom: {name}={value!r}; give a whole number, {least} or more")


def _check_size(size: object) -> None:
    sides = list(size) if isinstance(size, Sequence) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side >= MIN_SIDE for side in sides):
        raise UserError(f"phantom: size={size!r}; give [height, width] in pixels, each {MIN_SIDE} or more")


def _checked_planes(planes: object) -> dict[str, float]:
    shares = dict(planes) if isinstance(planes, Mapping) else {}
    numbers = all(isinstance(share, int | float) and share >= 0 for share in shares.values())
    if not shares or set(shares) - set(PLANES) or not numbers or sum(shares.values()) <= 0:
        raise UserError(f"phantom: planes={planes!r}; give shares of {', '.join(PLANES)}, at least one above zero")
    return shares


def datamodule(
    n: int = 500,
    image_size: Sequence[int] | None = None,
    phantom_seed: int = 0,
    difficulty: str = "normal",
    images_per_subject: int = 2,
    planes: Mapping[str, float] | None = None,
    *,
    size: Sequence[int] = (256, 256),
    **options: Any,
) -> SegmentationDataModule:
    """Batches of `Phantom(n, image_size, phantom_seed, ...)`; `options` are those of `SegmentationDataModule`.

    Images are drawn at `image_size`, or at the network's input `size` when that is None.
    """
    source = Phantom(
        n, size if image_size is None else image_size, phantom_seed, difficulty, images_per_subject, planes
    )
    return SegmentationDataModule(source, size=size, **options)
