"""Scores of predictions in the original resolution, image by image and over a split."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from famseg.data.transforms import Letterbox
from famseg.metrics.confusion import class_scores, confusion_matrix, dice, iou
from famseg.metrics.image import measure_image

Row = dict[str, Any]
_LENGTHS = ("hc", "bpd", "ofd", "fl")
_MEANS = ("hd95_mm", "assd_mm", "nsd", "boundary_iou", "jaggedness")
_COUNTS = ("missed", "false_alarm")


class ImageScorer:
    """Compares logits with masks of the original size; classes of model and data are matched by name.

    The first one is the background, whatever it is called. A class that the model knows and the data does not (a femur
    in a head image) counts as an error where it is predicted, unless the image does not know it: then it counts as
    background. A class that the model lacks has no scores, and is not in the mean IoU.

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
        self._from_output = np.array([everything.index(name) for name in outputs])
        self._from_id = np.zeros(256, np.int64)
        for index, name in enumerate(self.names):
            self._from_id[data_classes[name]] = index

    def score(self, logits: Tensor, batch: Mapping[str, Any]) -> list[Row]:
        """One row per image: overlap, boundaries, jaggedness, biometry.

        Args:
            logits: (B, classes, H, W) at the network's resolution.
            batch: `name`, `size` (h, w), `spacing` (mm per px), `original_mask` (h, w), `truth`, `known_names`
                (`Sample.known`), a list of B each.
        """
        rows = []
        for i, name in enumerate(batch["name"]):
            restored = self.letterbox.restore(logits[i : i + 1].float(), batch["size"][i])[0]
            labelled = self._labelled(batch["known_names"][i])
            prediction = labelled[self._from_output[restored.argmax(0).cpu().numpy()]]
            truth = self._from_id[batch["original_mask"][i]]
            rows.append({"file": name, **self._score(prediction, truth, batch["spacing"][i], batch["truth"][i])})
        return rows

    def _labelled(self, known: Collection[str] | None) -> NDArray[np.int64]:
        """Index -> itself, or the background's where the image does not know the class."""
        return np.array([i if known is None or name in known else 0 for i, name in enumerate(self._everything)])

    def totals(self, rows: Sequence[Row], confusion: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Scores of the split.

        IoU and Dice come from one confusion matrix over all images, as in the paper's tables; the others are means
        over the images, `..._mae_mm` the mean absolute error of a measurement, `missed_...` a number of images.

        Args:
            rows: a row per image, as `score` returns them.
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

    def _score(
        self, prediction: NDArray[np.int64], truth: NDArray[np.int64], spacing: float, known: Mapping[str, float]
    ) -> Row:
        matrix = confusion_matrix(truth, prediction, len(self.confusion))
        self.confusion += matrix
        dices, ious = dice(matrix), iou(matrix)
        row: Row = {}
        for i, name in enumerate(self.names):
            row[f"dice_{name.lower()}"] = float(dices[i]) if self.known[i] else math.nan
            row[f"iou_{name.lower()}"] = float(ious[i]) if self.known[i] else math.nan
        indices = {name: i for i, name in enumerate(self.names) if i and self.known[i]}
        row |= measure_image(truth, prediction, indices, spacing, known)
        for length in _LENGTHS:
            if f"{length}_mm" in row:
                row[f"{length}_error_mm"] = row[f"{length}_mm_predicted"] - row[f"{length}_mm"]
        return row


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _sum(values: Sequence[float]) -> float:
    return float(np.nansum(values)) if values else math.nan
