"""Several data sets as one, each labelled in its own way."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from famseg.classes import IDS
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.source import Pixels, Problem, Sample, Source, Stamp
from famseg.errors import UserError


class Concat:
    """Data sets one after the other; classes are matched by name.

    Every sample keeps what its own set knows of the classes (`Sample.known`). Names and groups get the set's name in
    front, `hc18/000_HC.png`, so that two sets may use the same ones.

    Args:
        sets: Name -> data set. Their first classes, the background, bear one name.
        shared_subjects: Groups of one name in several sets are one subject, which a split keeps together; otherwise
            they are different subjects.

    Raises:
        UserError: There is no set, or their backgrounds have different names.
    """

    def __init__(self, sets: Mapping[str, Source], shared_subjects: bool = False) -> None:
        if not sets:
            raise UserError("data.sets: names no data set. Give at least one.")
        self.sets = dict(sets)
        self.classes = _common_classes(self.sets)
        self._to_common = [_id_table(source.classes, self.classes) for source in self.sets.values()]
        self._ends = list(accumulate(len(source) for source in self.sets.values()))
        self._shared = shared_subjects
        self.names = [f"{name}/{file}" for name, source in self.sets.items() for file in source.names]
        self.groups = [
            group if shared_subjects else f"{name}/{group}"
            for name, source in self.sets.items()
            for group in source.groups
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Decode a sample of the set it belongs to, its mask in the common ids."""
        if not 0 <= index < len(self):
            raise IndexError(f"{len(self)} samples, asked for number {index}")
        number = bisect_right(self._ends, index)
        source = list(self.sets.values())[number]
        sample = source[index - self._ends[number] + len(source)]
        mask = None if sample.mask is None else self._to_common[number][sample.mask]
        return replace(sample, name=self.names[index], group=self.groups[index], mask=mask)

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """Those of all sets, and subjects of one name in two of them."""
        for source in self.sets.values():
            yield from source.problems(decode)
        if self._shared:
            return
        first: dict[str, str] = {}
        for name, source in self.sets.items():
            for group in sorted(set(source.groups)):
                if (other := first.setdefault(group, name)) != name:
                    what = f"is in {other} too, and is taken for another subject"
                    mend = "Rename one of them, or, if they are one, give data.shared_subjects=true."
                    yield Problem(f"{name}, subject {group}", what, mend, fatal=False)

    def stamp(self) -> Stamp:
        """Of all sets."""
        stamps = {name: source.stamp() for name, source in self.sets.items()}
        options = {name: stamp.options for name, stamp in stamps.items()}
        files = tuple(file for stamp in stamps.values() for file in stamp.files)
        return Stamp({"kind": "concat", "classes": self.classes, "sets": options}, files)


def datamodule(
    sets: Mapping[str, Source],
    weights: Mapping[str, float] | None = None,
    shared_subjects: bool = False,
    root: object = None,
    **options: Any,
) -> SegmentationDataModule:
    """Batches of a `Concat`; `options` are those of `SegmentationDataModule`.

    Args:
        sets: Name -> data set.
        weights: Name of a set -> how often an epoch shows each of its training images (2: twice, 0.5: every other
            epoch); sets that are not named: once.
        shared_subjects: As for `Concat`.
        root: Not used here: a key of a configuration that its sets may refer to.
        **options: As said above.

    Raises:
        UserError: As `Concat`; a weight of no set, or one that is not positive.
    """
    source = Concat(sets, shared_subjects)
    weights = weights or {}
    for name, weight in weights.items():
        if name not in sets or not weight > 0:
            raise UserError(f"data.weights.{name}={weight}: give positive numbers for sets of {list(sets)}.")
    per_sample = [weights.get(name, 1.0) for name, part in source.sets.items() for _ in range(len(part))]
    return SegmentationDataModule(source, weights=per_sample if weights else None, **options)


def _common_classes(sets: Mapping[str, Source]) -> dict[str, int]:
    """All classes, the background first; the paper's names keep the paper's ids, others follow."""
    backgrounds = {next(iter(source.classes)): name for name, source in sets.items()}
    if len(backgrounds) > 1:
        some = ", ".join(f"{background} in {name}" for background, name in backgrounds.items())
        raise UserError(f"data.sets: the background has several names ({some}). Give all sets the same.")
    (background,) = backgrounds
    names = dict.fromkeys(name for source in sets.values() for name in source.classes)
    ids = {background: 0} | {name: IDS[name] for name in IDS if name in names and name != background}
    for name in names:
        ids.setdefault(name, max(*ids.values(), *IDS.values()) + 1)
    return ids


def _id_table(own: Mapping[str, int], common: Mapping[str, int]) -> Pixels:
    """Id of a set's mask -> common id."""
    table = np.zeros(256, np.uint8)
    for name, number in own.items():
        table[number] = common[name]
    return table
