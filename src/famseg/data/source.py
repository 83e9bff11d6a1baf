"""What a data set is: a sequence of samples that knows its classes, its groups and what is wrong with it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from famseg.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One decoded image with what is known of it.

    Attributes:
        name: Unique in its source: the file name of the image, e.g. `010_2HC.png`.
        group: Examination or subject; a group never straddles a split.
        image: uint8 (H, W).
        mask: uint8 (H, W) of class ids (`Source.classes`), None when nobody labelled the image.
        spacing: Millimetres per pixel of `image`, nan when unknown.
        truth: Millimetre values known from elsewhere than the mask: `hc_mm`, `bpd_mm`, `ofd_mm`, `fl_mm`.
        known: Classes that the mask marks wherever they are: those that are labelled, and those known to be absent. Any
            other class may hide in what the mask calls background. None: every class is known.
    """

    name: str
    group: str
    image: Pixels
    mask: Pixels | None
    spacing: float
    truth: Mapping[str, float] = field(default_factory=dict)
    known: frozenset[str] | None = None


@dataclass(frozen=True)
class Problem:
    """One bad input.

    Attributes:
        file: The file (and row) it is about.
        what: What is wrong.
        mend: What the user can do about it.
        fatal: Training refuses to start; otherwise it goes on as `what` says.
    """

    file: str
    what: str
    mend: str
    fatal: bool = True

    @classmethod
    def from_error(cls, error: UserError) -> "Problem":
        """A problem from what reading the file raised, `FILE: what. Mend.`."""
        file, _, rest = str(error).partition(": ")
        what, _, mend = rest.partition(". ")
        return cls(file, what, mend)

    def __str__(self) -> str:
        return f"{self.file}: {self.what}. {self.mend}"


@dataclass(frozen=True)
class Stamp:
    """What the decoded samples of a source follow from: equal stamps, equal samples.

    Attributes:
        options: Kind of the set and all options that change a sample, in plain values.
        files: Path, size in bytes and time of change (ns) of every file that is read; -1 for one that is missing.
    """

    options: Mapping[str, Any]
    files: tuple[tuple[str, int, int], ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any], paths: Iterable[Path]) -> "Stamp":
        """A stamp with the files as they are now."""
        return cls(options, tuple(_state(path) for path in paths))


def _state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path.absolute()), -1, -1
    return str(path.absolute()), status.st_size, status.st_mtime_ns


class Source(Protocol):
    """A labelled set of images."""

    @property
    def classes(self) -> Mapping[str, int]:
        """The classes that the set labels, name -> id in the masks, in the order of a model's outputs."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One name per sample; nothing is decoded to know it."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """One group per sample."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decode sample `index`; `UserError` names the file when that fails. Called from several threads."""
        ...

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """Every bad input; with `decode=False` only those that can be seen without decoding an image."""
        ...

    def stamp(self) -> Stamp:
        """What the samples follow from, for a cache on disk."""
        ...


def unshown(source: Source, shown: Collection[int]) -> Iterator[tuple[str, str]]:
    """What is wrong, and the mend, for each class of a source that its labels do not show.

    Args:
        source: Its `absent`, if it has one, names classes that the user knows not to be there.
        shown: Ids in the labels.
    """
    absent = getattr(source, "absent", ())
    for name, number in list(source.classes.items())[1:]:
        if number not in shown and name not in absent:
            what = f"{name} (id {number}) is in no label, so that a network learns to call it background"
            yield what, f"Leave it out of data.ids, or, if no image shows it, say data.absent=[{name}]."
