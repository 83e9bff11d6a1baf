"""The shipped network on validation images: other input sizes and the mirrored image, alone and averaged.

    python test_time.py ROOT_OF_HC18 ../02_hc18_models/split.csv test_time.csv      # in this folder

No training and no test image: what a user could change at prediction. CSV: a row per image and way of predicting.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from famseg.biometry.head import measure_head
from famseg.checkpoint import load_predictor
from famseg.data.hc18 import HC18
from famseg.inference import Predictor

SIZES = [(192, 288), (224, 336), (256, 384), (288, 432), (320, 480), (384, 576)]  # it was trained at 256x384
AVERAGES = [(256, 320), (224, 256, 288), (224, 256, 320)]  # heights
ID = 2  # of the head in the labels


def main() -> None:
    """A row per validation image and way."""
    root, split, out = sys.argv[1:]
    with open(split, newline="") as file:
        part = {row["file"]: row["split"] for row in csv.DictReader(file)}
    source, network = HC18(root), load_predictor("famseg-t-hc18")
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "hc_mm", "way", "dice", "hc_error_mm"])
        for index in tqdm([i for i, name in enumerate(source.names) if part[name] == "val"]):
            sample = source[index]
            head, true = sample.mask == ID, sample.truth["hc_mm"]
            for way, probability in ways(network, sample.image):
                found = probability > 0.5
                dice = 2 * (found & head).sum() / (found.sum() + head.sum())
                error = measure_head(found, sample.spacing).hc_mm - true
                writer.writerow([sample.name, true, way, f"{dice:.5f}", f"{error:.3f}"])


def ways(network: Predictor, image: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name -> probability of the head (h, w)."""
    plain = {size[0]: head(replace(network, size=size), image) for size in SIZES}
    flip = {size[0]: head(replace(network, size=size, flip=True), image) for size in SIZES}
    for height in plain:
        yield f"{height}", plain[height]
        yield f"{height}, mirror", flip[height]
    for heights in AVERAGES:
        name = " + ".join(map(str, heights))
        yield f"{name}, mirror", np.mean([flip[height] for height in heights], 0)


def head(network: Predictor, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Its probability (h, w)."""
    return torch.softmax(network.logits(image), 0)[1].numpy()


if __name__ == "__main__":
    main()
