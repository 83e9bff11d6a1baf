"""Fetal growth standards: how large head and femur are for their age. For research, not a medical device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

from scipy.special import ndtr, ndtri

WEEKS = (14.0, 40.0)
"""Gestational ages that the standards cover, in weeks."""


@dataclass(frozen=True)
class Standard:
    """Normal distribution of a measurement in mm at each gestational age in weeks.

    Everything is NaN outside 14 to 40 weeks: nothing is extrapolated.
    """

    name: str
    _mean: Callable[[float], float]
    _sd: Callable[[float], float]

    def mean(self, weeks: float) -> float:
        """Mean in mm."""
        return self._mean(weeks) if covered(weeks) else math.nan

    def sd(self, weeks: float) -> float:
        """Standard deviation in mm."""
        return self._sd(weeks) if covered(weeks) else math.nan

    def z_score(self, mm: float, weeks: float) -> float:
        """Standard deviations above the mean."""
        return (mm - self.mean(weeks)) / self.sd(weeks)

    def centile(self, mm: float, weeks: float) -> float:
        """Per cent of fetuses of this age that are smaller."""
        return 100 * float(ndtr(self.z_score(mm, weeks)))

    def value(self, centile: float, weeks: float) -> float:
        """Measurement in mm at a centile (0 to 100)."""
        return self.mean(weeks) + float(ndtri(centile / 100)) * self.sd(weeks)


def covered(weeks: float) -> bool:
    """Whether the standards say anything at this age."""
    return WEEKS[0] <= weeks <= WEEKS[1]


# Papageorghiou et al., "International standards for fetal growth based on serial ultrasound measurements: the Fetal
# Growth Longitudinal Study of the INTERGROWTH-21st Project", Lancet 384:869-879, 2014; natural logarithms.
HC = Standard(
    "HC",
    lambda g: -28.2849 + 1.69267 * g**2 - 0.397485 * g**2 * log(g),
    lambda g: 1.98735 + 0.0136772 * g**3 - 0.00726264 * g**3 * log(g) + 0.000976253 * g**3 * log(g) ** 2,
)
BPD = Standard(
    "BPD",
    lambda g: 5.60878 + 0.158369 * g**2 - 0.00256379 * g**3,
    lambda g: exp(0.101242 + 0.00150557 * g**3 - 0.000771535 * g**3 * log(g) + 0.0000999638 * g**3 * log(g) ** 2),
)
OFD = Standard(
    "OFD",
    lambda g: -12.4097 + 0.626342 * g**2 - 0.148075 * g**2 * log(g),
    lambda g: exp(-0.880034 + 0.0631165 * g**2 - 0.0317136 * g**2 * log(g) + 0.00408302 * g**2 * log(g) ** 2),
)
FL = Standard(
    "FL",
    lambda g: -39.9616 + 4.32298 * g - 0.0380156 * g**2,
    lambda g: exp(0.605843 - 42.0014 * g**-2 + 9.17972e-6 * g**3),
)
