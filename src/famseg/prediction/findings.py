"""What one segmented image says: millimetres, ages, centiles, confidence, and reasons to doubt them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from famseg.biometry import (
    Femur,
    Flag,
    GestationalAge,
    Head,
    hadlock_1984,
    intergrowth_21st,
    measure_femur,
    measure_head,
)
from famseg.biometry.standards import BPD, FL, HC, OFD, WEEKS, covered
from famseg.classes import FEMUR, HEAD
from famseg.errors import UserError
from famseg.inference import Segmentation

NOTICE = "Research use only. Not a medical device."
NAMES = {HEAD: "head", FEMUR: "femur"}

# An object with one of these is measured, but no age is read off it.
_NOT_DATED = {
    HEAD: {Flag.NOT_ELLIPTIC, Flag.CUT_OFF, Flag.IMPLAUSIBLE},
    FEMUR: {Flag.NOT_ELONGATED, Flag.TOUCHES_BORDER},
}

MEANINGS = {
    Flag.EMPTY: "not found",
    Flag.NOT_MEASURABLE: "too small or cut off: not measured",
    Flag.NO_PIXEL_SIZE: "pixel size unknown: no millimetres",
    Flag.TOUCHES_BORDER: "touches the border of the image: may be cut off",
    Flag.SEVERAL_COMPONENTS: "several separate regions: only the largest is measured",
    Flag.NOT_ELLIPTIC: "outline is not an ellipse: no age from it",
    Flag.CUT_OFF: "cut off by the border: no age from it",
    Flag.IMPLAUSIBLE: "too narrow for a head: no age from it",
    Flag.NOT_ELONGATED: "too thick for a femur: no age from it",
}
"""Flags in words, for people."""


@dataclass(frozen=True)
class Length:
    """A measurement: its name ("HC"), mm (NaN: none) and centile (NaN: no age given, or one outside the standards)."""

    name: str
    mm: float
    centile: float


@dataclass(frozen=True)
class Findings:
    """Measurements of one image.

    Attributes:
        head: None when the network does not know the cranium.
        femur: None when the network does not know the femur.
        lengths: HC, BPD, OFD and FL, as far as the network knows their objects.
        ages: by Hadlock 1984 and by INTERGROWTH-21st, from HC and FL as far as they are not flagged. BPD is left out:
            Hadlock's ends at the inner border of the skull, ours at the outer one.
        weeks: the known gestational age that the centiles are for; NaN when not given.
        confidence: class name -> mean probability of the class within its region (NaN: not predicted).
        spacing: mm per pixel; NaN when unknown.
    """

    head: Head | None
    femur: Femur | None
    lengths: tuple[Length, ...]
    ages: tuple[GestationalAge, GestationalAge]
    weeks: float
    confidence: Mapping[str, float]
    spacing: float

    def flags(self) -> dict[str, tuple[Flag, ...]]:
        """Class name -> reasons to doubt its numbers."""
        objects = {HEAD: self.head, FEMUR: self.femur}
        return {name: found.flags for name, found in objects.items() if found is not None}

    def row(self) -> dict[str, str | float]:
        """Columns of `biometry.csv`, rounded to what can be meant; what is not known is empty."""
        row: dict[str, str | float] = {"spacing_mm": _rounded(self.spacing, 6)}
        row |= {f"{length.name.lower()}_mm": _rounded(length.mm, 2) for length in self.lengths}
        for name, age in zip(("hadlock", "intergrowth"), self.ages, strict=True):
            row |= {f"ga_{name}_{key}": _rounded(getattr(age, key), 2) for key in ("weeks", "low", "high")}
            row |= {f"ga_{name}_from": age.method.partition(", ")[2], f"ga_{name}_flag": age.flag}
        row["weeks"] = _rounded(self.weeks, 2)
        row |= {f"{length.name.lower()}_centile": _rounded(length.centile, 1) for length in self.lengths}
        row |= {f"confidence_{name.lower()}": _rounded(value, 3) for name, value in self.confidence.items()}
        return row | {f"flags_{name.lower()}": " ".join(flags) for name, flags in self.flags().items()}


def examine(
    segmentation: Segmentation, classes: Mapping[str, int], spacing: float, weeks: float = math.nan
) -> Findings:
    """Measure what was segmented.

    Args:
        segmentation: of one image, in its size.
        classes: names -> ids; FB is measured as a head and FL as a femur.
        spacing: mm per pixel; NaN when unknown, which leaves the measurements without millimetres.
        weeks: the known gestational age, for centiles; NaN when not known.
    """
    mask = segmentation.mask
    head = measure_head(mask == classes[HEAD], spacing) if HEAD in classes else None
    femur = measure_femur(mask == classes[FEMUR], spacing) if FEMUR in classes else None
    lengths: list[Length] = []
    if head:
        standards = ((HC, head.hc_mm), (BPD, head.bpd_mm), (OFD, head.ofd_mm))
        lengths += [Length(standard.name, mm, standard.centile(mm, weeks)) for standard, mm in standards]
    if femur:
        lengths.append(Length(FL.name, femur.fl_mm, FL.centile(femur.fl_mm, weeks)))
    confidence = {name: segmentation.confidence(id_) for name, id_ in list(classes.items())[1:]}
    return Findings(head, femur, tuple(lengths), _ages(head, femur), weeks, confidence, spacing)


def parse_weeks(text: str) -> float:
    """Gestational age in weeks from "20.5" or, weeks and days, "20+3" or "20w3d".

    Raises:
        UserError: it is neither, or not within the 14 to 40 weeks of the growth standards.
    """
    parts = re.fullmatch(r"(\d+)(?:\+|w)([0-6])d?|(\d+(?:\.\d+)?)w?", text.lower().strip())
    if not parts:
        raise UserError(f"age {text!r}: give weeks as 20.5 or, with 0 to 6 days, as 20+3.")
    weeks, days, decimal = parts.groups()
    age = float(decimal) if decimal else int(weeks) + int(days) / 7
    if not covered(age):
        raise UserError(f"age {text!r}: centiles are known from {WEEKS[0]:.0f} to {WEEKS[1]:.0f} weeks. Leave it out.")
    return age


def weeks_and_days(weeks: float) -> str:
    """Weeks as obstetricians say them: 20.5 -> "20w3d" (completed days)."""
    days = math.floor(weeks * 7 + 1e-6)  # 20+3 as a fraction of weeks must not lose its third day to rounding
    return f"{days // 7}w{days % 7}d"


def in_words(centile: float) -> str:
    """A centile as it is said: 100 is none, and neither is 0."""
    return "-" if math.isnan(centile) else "<1" if centile < 1 else ">99" if centile > 99 else f"{centile:.0f}"


def _ages(head: Head | None, femur: Femur | None) -> tuple[GestationalAge, GestationalAge]:
    hc = head.hc_mm if head and not _NOT_DATED[HEAD] & set(head.flags) else math.nan
    fl = femur.fl_mm if femur and not _NOT_DATED[FEMUR] & set(femur.flags) else math.nan
    return hadlock_1984(hc_mm=hc, fl_mm=fl), intergrowth_21st(hc, fl)


def _rounded(value: float, digits: int) -> float | str:
    return "" if math.isnan(value) else round(value, digits)
