"""Draw augmented HC18 images, `python docs/figures/augment.py --hc18 DIR`: both engines, and the scanner's changes.

HC18: van den Heuvel et al., "Automated measurement of fetal head circumference using 2D ultrasound images", PLoS ONE
13(8), 2018; CC BY 4.0, https://zenodo.org/records/1327317.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from famseg.data.augment.draw import Draw
from famseg.data.augment.ultrasound import degrade, speckle
from famseg.data.hc18 import HC18
from famseg.data.source import Pixels
from famseg.data.transforms import Augmentation, Letterbox

SIZE = (256, 384)
IMAGE, OTHERS = "420_HC.png", ("150_HC.png", "420_HC.png", "640_HC.png", "010_HC.png")
CHANGES = {
    "as it is": Draw(),
    "attenuation: 12 dB": Draw(attenuation=12.0),
    "gain: +6, +3, -5, -2, +6 dB": Draw(6.0, 3.0, -5.0, -2.0, 6.0),
    "shadow: 25 dB": Draw(shadow=25.0, shadow_at=0.25, shadow_width=0.12, shadow_from=0.35),
    "sector: 0.35": Draw(sector=0.35, sector_at=-0.6),
    "speckle: 0.15": Draw(speckle=0.15, speckle_seed=1.0),
}


def pair(root: Path, name: str) -> tuple[Pixels, Pixels]:
    """An image and its mask (1 within the head) at the network's size."""
    source, box = HC18(root), Letterbox(SIZE)
    sample = source[list(source.names).index(name)]
    assert sample.mask is not None
    return box.apply(sample.image), box.apply_mask((sample.mask > 0).astype(np.uint8))


def show(axis: Axes, image: Pixels, mask: Pixels | None = None) -> None:
    """A picture with the outline of its label."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    if mask is not None and mask.any():
        axis.contour(mask, [0.5], colors="#39d353", linewidths=1)
    axis.set(xticks=[], yticks=[])


def engines(root: Path, target: Path) -> None:
    """The same draws by albumentations and on the device, and what they differ in, sixty times as strong."""
    augment = Augmentation(geometric=1, ultrasound=0.3)
    figure, axes = plt.subplots(len(OTHERS), 4, figsize=(9.6, 1.72 * len(OTHERS)), layout="constrained")
    for seed, (name, row) in enumerate(zip(OTHERS, axes, strict=True), start=2):
        image, mask = pair(root, name)
        one, its_mask = augment(image, mask, seed)
        batch = torch.from_numpy(image)[None], torch.from_numpy(mask)[None], torch.from_numpy(augment.draw(seed))[None]
        grey, labels = augment.batch(*batch, 2)
        other = grey[0, 0].numpy()
        show(row[0], image, mask)
        show(row[1], one, its_mask)
        show(row[2], other, labels[0].numpy())
        show(row[3], 60 * np.abs(other - one))
    for axis, title in zip(axes[0], ("image", "albumentations", "gpu", "60 x difference"), strict=True):
        axis.set_title(title)
    figure.savefig(target, dpi=100, pil_kwargs={"optimize": True})


def changes(root: Path, target: Path) -> None:
    """One change a picture, at its full default strength."""
    image, _ = pair(root, IMAGE)
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 4.7), layout="constrained")
    for (title, values), axis in zip(CHANGES.items(), axes.flat, strict=True):
        draw = Draw.batch(torch.tensor([values], dtype=torch.float32))
        grey = torch.from_numpy(image)[None, None].float()
        show(axis, speckle(degrade(grey, draw), draw)[0, 0].clamp(0, 255).numpy())
        axis.set_title(title, fontsize=10)
    figure.savefig(target, dpi=100, pil_kwargs={"optimize": True})


def main() -> None:
    """Write docs/figures/augment_engines.png and augment_scanner.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hc18", type=Path, required=True, help="folder of HC18 (holds training_set/)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    options = parser.parse_args()
    engines(options.hc18, options.out / "augment_engines.png")
    changes(options.hc18, options.out / "augment_scanner.png")


if __name__ == "__main__":
    main()
