"""The file that the HC18 challenge takes: an ellipse in millimetres for each test image (hc18.grand-challenge.org)."""

import math
from collections.abc import Sequence
from pathlib import Path

from famseg.files import write_table
from famseg.prediction.predict import Result


def write_submission(path: Path, results: Sequence[Result]) -> list[str]:
    """Write `filename,center_x_mm,center_y_mm,semi_axes_a_mm,semi_axes_b_mm,angle_rad`, a line per measured head.

    The centre is in picture coordinates times the pixel size, x to the right, y downwards, pixel centres at integers;
    a >= b; the angle is that of the major axis from +x towards +y, 0 to pi.

    Args:
        path: the CSV file.
        results: of the test images.

    Returns:
        Why images have no line, in words; the challenge wants one for each of its 335.
    """
    rows, missing = [], []
    for result in results:
        head = result.findings.head if result.findings else None
        if not (result.findings and head and head.ellipse and not math.isnan(head.hc_mm)):
            missing.append(f"{result.file}: has no line in {path}: no head in mm.")
            continue
        mm, ellipse = result.findings.spacing, head.ellipse
        rows.append(
            {
                "filename": result.file.name,
                "center_x_mm": round(ellipse.cx * mm, 6),
                "center_y_mm": round(ellipse.cy * mm, 6),
                "semi_axes_a_mm": round(ellipse.a * mm, 6),
                "semi_axes_b_mm": round(ellipse.b * mm, 6),
                "angle_rad": round(ellipse.angle % math.pi, 6),
            }
        )
    write_table(path, rows)
    return missing
