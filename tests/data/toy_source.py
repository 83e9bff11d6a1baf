"""A module of its own, not of conftest.py: processes that are not forked must be able to import the class."""

import numpy as np

from famseg.data.source import Sample, Stamp


class Toy:
    """A source in memory: two images per group, sizes that differ, mask ids 0 and 2."""

    def __init__(self, count=24):
        self.classes = {"BG": 0, "FB": 2}
        self.names = [f"{index:03d}.png" for index in range(count)]
        self.groups = [f"g{index // 2}" for index in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        height, width = 40 + index % 3, 60
        image = np.random.default_rng(index).integers(0, 256, (height, width), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[10:30, 10:40] = 2
        return Sample(self.names[index], self.groups[index], image, mask, 0.5, {"hc_mm": 50.0})

    def problems(self, decode=True):
        return iter(())

    def stamp(self):
        return Stamp({"kind": "toy", "count": len(self)})
