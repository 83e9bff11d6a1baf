"""IoU and Dice from a confusion matrix, as the paper's tables count them: one matrix over a whole split."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Pixel counts (classes, classes), rows the truth, columns the prediction.

    Args:
        truth: class indices of any shape.
        prediction: class indices of the same shape.
        classes: number of classes; all indices lie below it.
    """
    number: type[np.integer] = np.uint8 if classes**2 <= 256 else np.int64  # of a pair
    pairs = truth.astype(number).ravel() * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """Intersection over union per class; NaN where a class is in neither truth nor prediction."""
    hits = np.diag(matrix).astype(np.float64)
    return _ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def dice(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """Dice coefficient per class; NaN where a class is in neither truth nor prediction."""
    return _ratio(2.0 * np.diag(matrix), (matrix.sum(0) + matrix.sum(1)).astype(np.float64))


def class_scores(matrix: NDArray[np.integer], names: Sequence[str]) -> dict[str, float]:
    """`miou`, `iou_<class>`, `dice_<class>` of a split, names in lower case.

    A class that the truth does not hold is NaN, never 0 or 1, and stays out of the mean.

    Args:
        matrix: (classes, classes) as from `confusion_matrix`, summed over the split; `names` are its first rows.
        names: classes to report.
    """
    present = matrix.sum(1)[: len(names)] > 0
    ious = np.where(present, iou(matrix)[: len(names)], np.nan)
    dices = np.where(present, dice(matrix)[: len(names)], np.nan)
    mean = float(np.nanmean(ious)) if present.any() else float("nan")
    scores = {"miou": mean}
    scores |= {f"iou_{name.lower()}": float(value) for name, value in zip(names, ious, strict=True)}
    return scores | {f"dice_{name.lower()}": float(value) for name, value in zip(names, dices, strict=True)}


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
