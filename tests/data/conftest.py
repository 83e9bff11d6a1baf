import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_source import Toy

from famseg.biometry import Ellipse

SPACING = 0.25
HEADS = {
    "000_HC.png": Ellipse(64, 48, 40, 30, 0.3),
    "001_HC.png": Ellipse(60, 50, 35, 28, 1.2),
    "001_2HC.png": Ellipse(62, 46, 36, 29, 1.3),
    "002_HC.png": Ellipse(110, 48, 42, 32, 0.1),  # leaves the picture on the right
    "003_HC.png": Ellipse(66, 44, 33, 25, 2.0),
    "004_HC.png": Ellipse(58, 52, 38, 30, 0.0),
}


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def hc18_root(tmp_path):
    """Tiny pictures in HC18's official layout: 96x128 px, outlines 2.5 px thick."""
    root = tmp_path / "hc18"
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(128), np.arange(96)), axis=-1).reshape(-1, 2).astype(float)
    rows = [["filename", "pixel size(mm)", "head circumference (mm)"]]
    for name, head in HEADS.items():
        write_image(root / "training_set" / name, rng.integers(0, 256, (96, 128), dtype=np.uint8))
        ring = (np.abs(head.distances(grid)) <= 1.25).reshape(96, 128).astype(np.uint8) * 255
        write_image(root / "training_set" / name.replace(".png", "_Annotation.png"), ring)
        rows.append([name, SPACING, round(head.perimeter() * SPACING, 2)])
    with (root / "training_set_pixel_size_and_HC.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def folder_root(tmp_path):
    """Six subjects, 40x56 px, a femur and a cranium in each label."""
    root = tmp_path / "own"
    rng = np.random.default_rng(0)
    lines = ["file,mm_per_pixel,subject"]
    for number in range(6):
        label = np.zeros((40, 56), np.uint8)
        label[5:20, 5:25], label[30:34, 20:50] = 2, 1
        write_image(root / "images" / f"{number}.png", rng.integers(0, 256, (40, 56), dtype=np.uint8))
        write_image(root / "labels" / f"{number}.png", label)
        lines.append(f"{number}.png,0.{number + 1},woman{number}")
    (root / "spacing.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def toy():
    return Toy
