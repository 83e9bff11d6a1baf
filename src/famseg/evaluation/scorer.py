"""Scores of predictions in the original resolution, image by image and over a split."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from famseg.data.progress import forks, parallel
from famseg.data.transforms import Letterbox
from famseg.metrics.confusion import class_scores, confusion_matrix, dice, iou
from famseg.metrics.image import measure_image

Row = dict[str, Any]
_LENGTHS = ("hc", "bpd", "ofd", "fl")
_MEANS = ("hd95_mm", "assd_mm", "nsd", "boundary_iou", "jaggedness")
_COUNTS = ("missed", "false_alarm")
BLOCK = 2**28  # pixels of images that wait to be scored together: some 600 of HC18, at two bytes a pixel half a GB


@dataclass(frozen=True)
class Pair:
    """What the scores of an image follow from.

    Attributes:
        file: name of the image.
        prediction: uint8 (h, w), indices of `ImageScorer.confusion`.
        truth: uint8 (h, w), likewise.
        spacing: mm per px; NaN when unknown.
        lengths: true values of the biometry in mm that are known from elsewhere than the mask.
    """

    file: str
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    spacing: float
    lengths: Mapping[str, float]


class ImageScorer:
    """Compares logits with masks of the original size; classes of model and data are matched by name.

    The first one is the background, whatever it is called. A class that the model knows and the data does not (a femur
    in a head image) counts as an error where it is predicted, unless the image does not know it: then it counts as
    background. A class that the model lacks has no scores, and is not in the mean IoU.

    Images wait until there are many, which processes then share. The scores are the same, in the order of the images.

    Args:
        model_classes: names in the order of the model's outputs -> ids.
        data_classes: names -> ids in the data's masks.
        letterbox: the resize whose inverse brings logits back to an image's size.

    Attributes:
        confusion: pixel counts of all images scored so far, rows the truth; the data's classes come first.
    """

    def __init__(self, model_classes: Mapping[str, int], data_classes: Mapping[str, int], letterbox: Letterbox) -> None:
        self.letterbox = letterbox
        self.names = list(data_classes)
        outputs = [self.names[0], *list(model_classes)[1:]]
        everything = self.names + [name for name in outputs if name not in data_classes]
        self._everything = everything
        self.known = [name in outputs for name in self.names]
        self.confusion = np.zeros((len(everything), len(everything)), np.int64)
        self._from_output = np.array([everything.index(name) for name in outputs], np.uint8)
        self._from_id = np.zeros(256, np.uint8)
        for index, name in enumerate(self.names):
            self._from_id[data_classes[name]] = index
        self._rows: list[Row] = []
        self._waiting: list[Pair] = []
        self._block = BLOCK if forks() else 0  # without processes nothing is gained by waiting

    def add(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        """Take the predictions of a batch.

        Args:
            logits: (B, classes, H, W) at the network's resolution.
            batch: `name`, `size` (h, w), `spacing` (mm per px), `original_mask` (h, w), `truth`, `known_names`
                (`Sample.known`), a list of B each.
        """
        for i, name in enumerate(batch["name"]):
            restored = self.letterbox.restore(logits[i : i + 1].float(), batch["size"][i])[0]
            output = restored.argmax(0).to(torch.uint8).cpu().numpy()  # (h, w); one byte a pixel leaves the device
            prediction = self._from_output_of(batch["known_names"][i])[output]
            truth = self._from_id[batch["original_mask"][i]]
            self._waiting.append(Pair(name, prediction, truth, batch["spacing"][i], batch["truth"][i]))
        if sum(pair.truth.size for pair in self._waiting) >= self._block:
            self._score_waiting()

    def rows(self, what: str | None = None) -> list[Row]:
        """One row per image taken so far: overlap, boundaries, jaggedness, biometry.

        Args:
            what: begins a progress line; None: there is none, as beside another one.
        """
        self._score_waiting(what)
        return self._rows

    def _score_waiting(self, what: str | None = None) -> None:
        for row, matrix in parallel(self._score, self._waiting, what):
            self._rows.append(row)
            self.confusion += matrix
        self._waiting = []

    def _from_output_of(self, known: Collection[str] | None) -> NDArray[np.uint8]:
        """Output of the model -> index; the background's where the image does not know the class."""
        labelled = [i if known is None or name in known else 0 for i, name in enumerate(self._everything)]
        return np.array(labelled, np.uint8)[self._from_output]

    def totals(self, rows: Sequence[Row], confusion: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Scores of the split.

        IoU and Dice come from one confusion matrix over all images, as in the paper's tables; the others are means
        over the images, `..._mae_mm` the mean absolute error of a measurement, `missed_...` a number of images.

        Args:
            rows: a row per image, as `rows` returns them.
            confusion: pixel counts of these images; None: those that this scorer has counted.
        """
        scores = class_scores(self.confusion if confusion is None else confusion, self.names)
        known = [name.lower() for name, known in zip(self.names, self.known, strict=True) if known]
        lacking = [name.lower() for name in self.names if name.lower() not in known]
        scores |= {f"{score}_{name}": math.nan for score in ("iou", "dice") for name in lacking}
        scores["miou"] = _mean([scores[f"iou_{name}"] for name in known])
        for length in _LENGTHS:
            if errors := _column(rows, f"{length}_error_mm"):
                scores[f"{length}_mae_mm"] = _mean([abs(error) for error in errors])
        for name in map(str.lower, self.names[1:]):
            scores |= {f"{score}_{name}": _mean(_column(rows, f"{score}_{name}")) for score in _MEANS}
            scores |= {f"{score}_{name}": _sum(_column(rows, f"{score}_{name}")) for score in _COUNTS}
        return scores

    def _score(self, pair: Pair) -> tuple[Row, NDArray[np.int64]]:
        """An image's row and pixel counts. Nothing is kept here: a process may do it, whose memory is lost."""
        matrix = confusion_matrix(pair.truth, pair.prediction, len(self.confusion))
        dices, ious = dice(matrix), iou(matrix)
        row: Row = {"file": pair.file}
        for i, name in enumerate(self.names):
            row[f"dice_{name.lower()}"] = float(dices[i]) if self.known[i] else math.nan
            row[f"iou_{name.lower()}"] = float(ious[i]) if self.known[i] else math.nan
        indices = {name: i for i, name in enumerate(self.names) if i and self.known[i]}
        row |= measure_image(pair.truth, pair.prediction, indices, pair.spacing, pair.lengths)
        for length in _LENGTHS:
            if f"{length}_mm" in row:
                row[f"{length}_error_mm"] = row[f"{length}_mm_predicted"] - row[f"{length}_mm"]
        return row, matrix


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _sum(values: Sequence[float]) -> float:
    return float(np.nansum(values)) if values else math.nan
