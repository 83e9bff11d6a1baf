"""Measurements in millimetres from masks of fetal head and femur, and what they say about gestational age."""

from famseg.biometry.ellipse import Ellipse, boundary_points, ellipse_from_mask, ellipse_from_outline, fit_ellipse

__all__ = ["Ellipse", "boundary_points", "ellipse_from_mask", "ellipse_from_outline", "fit_ellipse"]
