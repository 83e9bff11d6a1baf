"""All scores of one image that need its boundaries or millimetres: a row of the per-image table."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from famseg.biometry import measure_femur, measure_head
from famseg.classes import BACKGROUND, FEMUR, HEAD
from famseg.metrics.boundary_iou import boundary_iou
from famseg.metrics.jaggedness import jaggedness
from famseg.metrics.surface import surface_distances

TOLERANCE = 1.0
"""Tolerance of the normalized surface Dice in mm."""

Mask = NDArray[np.bool_]


def measure_image(
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    classes: Mapping[str, int],
    spacing: float,
    known: Mapping[str, float] | None = None,
) -> dict[str, float | str]:
    """Boundary scores, jaggedness and biometry of one image.

    Per class but BG, with the class's name in lower case behind the score (`hd95_mm_fb`): those of `score_boundary`,
    and `size`, the true object's share of the picture.
    For FB also `hc_mm`, `bpd_mm`, `ofd_mm`, for FL `fl_mm`, each with `..._predicted`, and `flags_fb`, `flags_fl`: what
    is to be said of the predicted mask, separated by spaces.

    Args:
        truth: class ids (height, width) in the original size.
        prediction: class ids of the same size.
        classes: name -> id.
        spacing: mm per px; NaN when unknown.
        known: true values of the biometry in mm that are known from elsewhere than the mask.
    """
    row: dict[str, float | str] = {}
    for name, index in classes.items():
        if name == BACKGROUND:
            continue
        true, predicted, suffix = truth == index, prediction == index, name.lower()
        row[f"size_{suffix}"] = float(np.count_nonzero(true) / true.size)
        row |= {f"{score}_{suffix}": value for score, value in score_boundary(true, predicted, spacing).items()}
        if name in _BIOMETRY:
            row |= _measure(name, true, predicted, spacing, known or {})
    return row


def score_boundary(truth: Mask, prediction: Mask, spacing: float) -> dict[str, float]:
    """Boundary scores of one class in one image.

    A missed object (in the truth, not predicted) and a false alarm (the other way round) cost: the distances are the
    picture's diagonal, the overlaps 0. Left out of the mean, as NaN, failing would improve it. All scores are NaN
    where the class is in neither.

    Args:
        truth: (height, width), true inside.
        prediction: of the same size.
        spacing: mm per px; NaN when unknown, which makes the scores in mm NaN.

    Returns:
        `hd95_mm`, `assd_mm`, `hd95_px`, `assd_px`, `nsd` (at 1 mm), `boundary_iou`, `jaggedness` (of the prediction, px
        of the image), and `missed` and `false_alarm`, 0 or 1.
    """
    there, found = bool(truth.any()), bool(prediction.any())
    scores = {"missed": float(there and not found), "false_alarm": float(found and not there)}
    if there and found:
        distances = surface_distances(truth, prediction)
        hd95, assd, nsd = distances.hausdorff(), distances.assd(), distances.nsd(TOLERANCE / spacing)
        overlap = boundary_iou(truth, prediction)
    elif there or found:
        hd95 = assd = math.hypot(*truth.shape)
        nsd = overlap = 0.0
    else:
        hd95 = assd = nsd = overlap = math.nan
    return {
        "hd95_mm": hd95 * spacing,
        "assd_mm": assd * spacing,
        "hd95_px": hd95,
        "assd_px": assd,
        "nsd": math.nan if math.isnan(spacing) else nsd,
        "boundary_iou": overlap,
        "jaggedness": jaggedness(prediction),
        **scores,
    }


def _head(mask: Mask, spacing: float) -> tuple[dict[str, float], str]:
    head = measure_head(mask, spacing)
    return {"hc_mm": head.hc_mm, "bpd_mm": head.bpd_mm, "ofd_mm": head.ofd_mm}, " ".join(head.flags)


def _femur(mask: Mask, spacing: float) -> tuple[dict[str, float], str]:
    femur = measure_femur(mask, spacing)
    return {"fl_mm": femur.fl_mm}, " ".join(femur.flags)


_BIOMETRY = {HEAD: _head, FEMUR: _femur}


def _measure(
    name: str, truth: Mask, prediction: Mask, spacing: float, known: Mapping[str, float]
) -> dict[str, float | str]:
    true, _ = _BIOMETRY[name](truth, spacing)
    predicted, flags = _BIOMETRY[name](prediction, spacing)
    row: dict[str, float | str] = {}
    for key, value in true.items():
        from_elsewhere = known.get(key, math.nan)
        row[key] = value if math.isnan(from_elsewhere) else from_elsewhere
        row[f"{key}_predicted"] = predicted[key]
    return row | {f"flags_{name.lower()}": flags}
