"""Gestational age from head and femur. For research, not a medical device.

Outside the range of its study an equation says nothing: the age is NaN and the flag says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_MEASURED_HADLOCK = {"HC": (68.0, 360.0), "BPD": (18.0, 102.0), "FL": (9.0, 83.0)}  # mm
_WEEKS_INTERGROWTH = (14.0, 40.0)

# Weeks from cm; Hadlock et al. 1984, Table 2.
_HADLOCK: dict[tuple[str, ...], Callable[..., float]] = {
    ("HC",): lambda hc: 8.96 + 0.540 * hc + 0.0003 * hc**3,
    ("BPD",): lambda bpd: 9.54 + 1.482 * bpd + 0.1676 * bpd**2,
    ("FL",): lambda fl: 10.35 + 2.460 * fl + 0.170 * fl**2,
    ("HC", "BPD"): lambda hc, bpd: 10.32 + 0.009 * hc**2 + 1.3200 * bpd + 0.00012 * hc**3,
    ("BPD", "FL"): lambda bpd, fl: 10.50 + 0.197 * bpd * fl + 0.9500 * fl + 0.7300 * bpd,
    ("HC", "FL"): lambda hc, fl: 11.19 + 0.070 * hc * fl + 0.2630 * hc,
    ("HC", "BPD", "FL"): lambda hc, bpd, fl: 11.38 + 0.070 * hc * fl + 0.9800 * bpd,
}
_HADLOCK_SPREAD = 0.08  # two standard deviations, as a part of the age


@dataclass(frozen=True)
class GestationalAge:
    """A gestational (menstrual) age.

    Attributes:
        weeks: age in weeks; NaN when it cannot be said.
        low: lower end in weeks of the interval that holds about 95 % of the fetuses; NaN where none is published.
        high: its upper end.
        method: equation and what it was given, as "Hadlock 1984, HC+FL".
        flag: empty, "not_measured" or "out_of_range".
    """

    weeks: float
    low: float
    high: float
    method: str
    flag: str = ""

    @property
    def days(self) -> int:
        """Completed days, as in the notation weeks + days.

        Raises:
            ValueError: the age is NaN.
        """
        return math.floor(self.weeks * 7)


def hadlock_1984(hc_mm: float = math.nan, bpd_mm: float = math.nan, fl_mm: float = math.nan) -> GestationalAge:
    """Age by the equation for just the measurements that are given (NaN: not given).

    Equations: Hadlock, Deter, Harrist, Park, "Estimating fetal age: computer-assisted analysis of multiple fetal growth
    parameters", Radiology 152:497-501, 1984; 361 fetuses of 14 to 42 weeks. Range: HC 68 to 360 mm, and BPD and FL of
    the same ages. Interval: 8 % of the age (2 SD), Hadlock's later estimate for HC and FL in the second and third
    trimester; none for BPD without them. Its BPD is outer to inner border.
    """
    given = {name: mm for name, mm in {"HC": hc_mm, "BPD": bpd_mm, "FL": fl_mm}.items() if not math.isnan(mm)}
    method = "Hadlock 1984, " + "+".join(given)
    if not given:
        return _nothing("Hadlock 1984", "not_measured")
    if not all(_MEASURED_HADLOCK[name][0] <= mm <= _MEASURED_HADLOCK[name][1] for name, mm in given.items()):
        return _nothing(method, "out_of_range")
    weeks = _HADLOCK[tuple(given)](*(mm / 10 for mm in given.values()))
    spread = math.nan if tuple(given) == ("BPD",) else _HADLOCK_SPREAD * weeks
    return GestationalAge(weeks, weeks - spread, weeks + spread, method)


def intergrowth_21st(hc_mm: float = math.nan, fl_mm: float = math.nan) -> GestationalAge:
    """Age by HC and FL, or by HC alone when there is no FL (NaN: not given).

    Equations: Papageorghiou et al., "Ultrasound-based gestational-age estimation in late pregnancy", Ultrasound Obstet
    Gynecol 48:719-726, 2016, doi 10.1002/uog.15894; natural logarithms. Range: ages of 14 to 40 weeks, those of the
    growth standards. Interval of HC and FL: the paper's abstract gives half-widths (95 %) of 6 to 7 days at 14 weeks,
    12 to 14 days at 26 weeks and only "> 14 days" later: the larger numbers, a line between them, and NaN from 26 weeks
    on; NaN for HC alone, which is wider.
    """
    if math.isnan(hc_mm):
        return _nothing("INTERGROWTH-21st", "not_measured")
    method = "INTERGROWTH-21st, " + ("HC" if math.isnan(fl_mm) else "HC+FL")
    if hc_mm <= 0 or fl_mm <= 0:
        return _nothing(method, "out_of_range")
    log_hc = math.log(hc_mm)
    if math.isnan(fl_mm):
        weeks = math.exp(0.05970 * log_hc**2 + 6.409e-9 * hc_mm**3 + 3.3258) / 7
    else:
        weeks = math.exp(0.03243 * log_hc**2 + 0.001644 * fl_mm * log_hc + 3.813) / 7
    if not _WEEKS_INTERGROWTH[0] <= weeks <= _WEEKS_INTERGROWTH[1]:
        return _nothing(method, "out_of_range")
    published = weeks <= 26 and not math.isnan(fl_mm)
    spread = 1 + (weeks - 14) / 12 if published else math.nan
    return GestationalAge(weeks, weeks - spread, weeks + spread, method)


def _nothing(method: str, flag: str) -> GestationalAge:
    return GestationalAge(math.nan, math.nan, math.nan, method, flag)
