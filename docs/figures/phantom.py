"""Draw the phantom beside images of HC18: `python docs/figures/phantom.py --hc18 DIR`.

HC18: van den Heuvel et al., "Automated measurement of fetal head circumference using 2D ultrasound images", PLoS ONE
13(8), 2018; CC BY 4.0, https://zenodo.org/records/1327317.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from famseg.data.hc18 import HC18
from famseg.data.phantom import Phantom
from famseg.data.source import Sample

COLUMNS, SIZE = 3, (540, 800)
REAL = ("150_HC.png", "420_HC.png", "640_HC.png")


def real_samples(root: Path) -> list[Sample]:
    """Three images of HC18."""
    source = HC18(root)
    return [source[list(source.names).index(name)] for name in REAL]


def phantom_samples(plane: str, seed: int) -> list[Sample]:
    """Drawn images of one plane, each of another subject."""
    source = Phantom(COLUMNS, SIZE, seed, images_per_subject=1, planes={plane: 1.0})
    return [source[index] for index in range(COLUMNS)]


def draw(rows: dict[str, list[Sample]], target: Path) -> None:
    """One row per kind, with a scale bar of 20 mm."""
    figure, axes = plt.subplots(len(rows), COLUMNS, figsize=(9.6, 2.25 * len(rows)), layout="constrained")
    for (title, samples), row in zip(rows.items(), axes, strict=True):
        for sample, axis in zip(samples, row, strict=True):
            axis.imshow(sample.image, cmap="gray", vmin=0, vmax=255)
            height, width = sample.image.shape
            axis.plot(0.03 * width + np.array([0, 20 / sample.spacing]), [0.96 * height] * 2, "w-", linewidth=1.5)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title)
    figure.savefig(target, dpi=100, pil_kwargs={"optimize": True})


def main() -> None:
    """Write docs/figures/phantom_beside_hc18.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hc18", type=Path, required=True, help="folder of HC18 (holds training_set/)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("phantom_beside_hc18.png"))
    options = parser.parse_args()
    rows = {
        "HC18": real_samples(options.hc18),
        "phantom, head": phantom_samples("head", seed=12),
        "phantom, femur": phantom_samples("femur", seed=10),
    }
    draw(rows, options.out)


if __name__ == "__main__":
    main()
