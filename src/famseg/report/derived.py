"""Scores of a run that follow from its tables: the median error of HC, and when validation reached a Dice."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]

LEVEL = 0.97  # of the mean Dice of the foreground classes, in validation


def derived(images: Columns, epochs: Columns, timing: Columns) -> dict[str, float]:
    """What test.csv, metrics.csv and timing.csv say beside their columns; only what can be told.

    Args:
        images: scores of the test images.
        epochs: metrics.csv.
        timing: timing.csv.

    Returns:
        `hc_median_mm`, the median absolute error of HC; `epochs_to_97` and `seconds_to_97`, finished epochs and their
        time in training until validation Dice was 97 % for the first time, NaN if it never was.
    """
    found: dict[str, float] = {}
    errors = np.abs(images.get("hc_error_mm", np.empty(0)))
    if np.isfinite(errors).any():
        found["hc_median_mm"] = float(np.nanmedian(errors))
    return found | _time_to_level(epochs, timing)


def _time_to_level(epochs: Columns, timing: Columns) -> dict[str, float]:
    classes = {
        name: values for name, values in epochs.items() if name.startswith("val/dice_") and name != "val/dice_bg"
    }
    dice = [values for values in classes.values() if np.isfinite(values).any()]  # of the classes in the validation
    if not dice:
        return {}
    reached = np.flatnonzero(np.mean(dice, axis=0) >= LEVEL)
    if not len(reached):
        return {"epochs_to_97": math.nan, "seconds_to_97": math.nan}
    count = int(reached[0]) + 1
    seconds = timing.get("train_seconds", np.empty(0))
    known = len(seconds) >= count
    return {"epochs_to_97": float(count), "seconds_to_97": float(seconds[:count].sum()) if known else math.nan}
