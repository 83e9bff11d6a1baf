"""Scores of predictions in the original resolution, image by image and over a split."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from famseg.biometry import head_circumference
from famseg.data.transforms import Letterbox
from famseg.metrics.confusion import class_scores, confusion_matrix, dice, iou


class ImageScorer:
    """Compares logits with masks of the original size; classes of model and data are matched by name.

    A class that the model knows and the data does not (a femur in a head image) counts as an error where it is
    predicted; a class that the model lacks is NaN.

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
        everything = self.names + [name for name in model_classes if name not in data_classes]
        self.size = len(everything)
        self.known = [name in model_classes for name in self.names]
        self._from_output = np.array([everything.index(name) for name in model_classes])
        self._from_id = np.zeros(256, np.int64)
        for index, name in enumerate(self.names):
            self._from_id[data_classes[name]] = index
        self.confusion = np.zeros((self.size, self.size), np.int64)

    def score(self, logits: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row per image.

        Args:
            logits: (B, classes, H, W) at the network's resolution.
            batch: `name`, `size` (h, w), `spacing` (mm per px), `original_mask` (h, w), `truth`, a list of B each.
        """
        rows = []
        for i, name in enumerate(batch["name"]):
            restored = self.letterbox.restore(logits[i : i + 1].float(), batch["size"][i])[0]
            prediction = self._from_output[restored.argmax(0).cpu().numpy()]
            truth = self._from_id[batch["original_mask"][i]]
            rows.append({"file": name, **self._score(prediction, truth, batch["spacing"][i], batch["truth"][i])})
        return rows

    def totals(self, rows: Sequence[Mapping[str, Any]], confusion: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Scores of the split: one confusion matrix over all images, errors in millimetres, misses.

        Args:
            rows: a row per image, as `score` returns them.
            confusion: pixel counts of these images; None: those that this scorer has counted.
        """
        scores = class_scores(self.confusion if confusion is None else confusion, self.names)
        lacking = {name.lower() for name, known in zip(self.names, self.known, strict=True) if not known}
        scores = {key: math.nan if key.rpartition("_")[2] in lacking else value for key, value in scores.items()}
        return scores | _circumference_errors(rows)

    def _score(
        self, prediction: NDArray[np.int64], truth: NDArray[np.int64], spacing: float, known: Mapping[str, float]
    ) -> dict[str, float]:
        matrix = confusion_matrix(truth, prediction, self.size)
        self.confusion += matrix
        row: dict[str, float] = {}
        for i, name in enumerate(self.names):
            row[f"dice_{name.lower()}"] = float(dice(matrix)[i]) if self.known[i] else math.nan
            row[f"iou_{name.lower()}"] = float(iou(matrix)[i]) if self.known[i] else math.nan
        if "FB" in self.names:
            row |= self._head(prediction, truth, spacing, known)
        return row

    def _head(
        self, prediction: NDArray[np.int64], truth: NDArray[np.int64], spacing: float, known: Mapping[str, float]
    ) -> dict[str, float]:
        head = self.names.index("FB")
        true = known.get("hc_mm", math.nan)
        if math.isnan(true):
            true = head_circumference(truth == head, spacing).mm
        return {"hc_mm": true, "hc_mm_predicted": head_circumference(prediction == head, spacing).mm}


def _circumference_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean absolute and median error of the head circumference, and heads that were not found."""
    pairs = np.array([(row["hc_mm"], row["hc_mm_predicted"]) for row in rows if "hc_mm" in row], dtype=float)
    pairs = pairs.reshape(-1, 2)[~np.isnan(pairs.reshape(-1, 2)[:, 0])]
    if not len(pairs):
        return {}
    errors = np.abs(pairs[:, 1] - pairs[:, 0])
    missed = float(np.isnan(errors).sum())
    found = errors[~np.isnan(errors)]
    mean, median = (float(found.mean()), float(np.median(found))) if len(found) else (math.nan, math.nan)
    return {"hc_mae_mm": mean, "hc_median_ae_mm": median, "hc_missed": missed}
