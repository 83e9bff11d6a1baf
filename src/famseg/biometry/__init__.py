"""Measurements in millimetres from masks of fetal head and femur, and what they say about gestational age."""

from famseg.biometry.ellipse import Ellipse, boundary_points, ellipse_from_mask, ellipse_from_outline, fit_ellipse
from famseg.biometry.femur import Femur, measure_femur
from famseg.biometry.gestational_age import GestationalAge, hadlock_1984, intergrowth_21st
from famseg.biometry.head import Head, measure_head
from famseg.biometry.quality import Flag

__all__ = [
    "Ellipse",
    "Femur",
    "Flag",
    "GestationalAge",
    "Head",
    "boundary_points",
    "ellipse_from_mask",
    "ellipse_from_outline",
    "fit_ellipse",
    "hadlock_1984",
    "intergrowth_21st",
    "measure_femur",
    "measure_head",
]
