"""Objects of the phantom in millimetres: the one geometry that mask, millimetres and image come from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.biometry import Ellipse

Float = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pose:
    """Where an object lies in the picture: centre in mm from the centre of pixel (0, 0), angle from +x towards +z.

    x runs along the rows to the right, z down the columns, away from the probe.
    """

    x: float
    z: float
    angle: float

    def local(self, x: Float, z: Float) -> tuple[Float, Float]:
        """Coordinates (u along the object, v across it) of points given in mm."""
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dz = x - np.float32(self.x), z - np.float32(self.z)
        return dx * cos + dz * sin, dz * cos - dx * sin

    def moved(self, x: float, z: float) -> "Pose":
        """The same direction, x and z further on."""
        return Pose(float(self.x + x), float(self.z + z), self.angle)


def pixel_centres(height: int, width: int, spacing: float) -> tuple[Float, Float]:
    """Coordinates (x (1, W), z (H, 1)) in mm of the pixel centres."""
    return np.arange(width)[None, :] * spacing, np.arange(height)[:, None] * spacing


@dataclass(frozen=True)
class Head:
    """A transverse section of the skull: the ellipse through the outer wall's mid-line, as HC18 outlines it.

    Attributes:
        ofd: occipitofrontal diameter, the long axis, in mm.
        bpd: biparietal diameter, the short axis, in mm.
        pose: position of the centre and direction of the long axis.
    """

    ofd: float
    bpd: float
    pose: Pose

    @classmethod
    def from_circumference(cls, hc: float, cephalic_index: float, pose: Pose) -> "Head":
        """The head of circumference `hc` (mm) and ratio bpd / ofd."""
        ofd = hc / Ellipse(0, 0, 0.5, 0.5 * cephalic_index, 0).perimeter()
        return cls(ofd, ofd * cephalic_index, pose)

    def truth(self) -> dict[str, float]:
        """HC, BPD and OFD in mm."""
        return {"hc_mm": self.ellipse(1.0).perimeter(), "bpd_mm": self.bpd, "ofd_mm": self.ofd}

    def ellipse(self, spacing: float) -> Ellipse:
        """The ellipse in pixels of `spacing` mm."""
        x, z = self.pose.x / spacing, self.pose.z / spacing
        return Ellipse(x, z, self.ofd / 2 / spacing, self.bpd / 2 / spacing, self.pose.angle)

    def extent(self) -> tuple[float, float]:
        """Half width and half height in mm of the upright box around the head."""
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        a, b = self.ofd / 2, self.bpd / 2
        return float(np.hypot(a * cos, b * sin)), float(np.hypot(a * sin, b * cos))

    def mask(self, height: int, width: int, spacing: float) -> Mask:
        """Pixels (H, W) whose centre lies inside the ellipse."""
        return self.ellipse(spacing).mask(height, width)


@dataclass(frozen=True)
class Femur:
    """The shaft of the femur: a bar with rounded ends, slightly bowed and slightly wider at its ends.

    Attributes:
        length: largest extent from tip to tip in mm, which is the femur length (FL).
        thickness: width at the middle in mm.
        bow: how far the middle lies beside the line through the ends, in mm, signed.
        pose: middle of the line through the ends and its direction.
    """

    length: float
    thickness: float
    bow: float
    pose: Pose

    FLARE = 0.2  # how much wider the ends (the metaphyses) are than the middle

    def truth(self) -> dict[str, float]:
        """FL in mm."""
        return {"fl_mm": self.length}

    def extent(self) -> tuple[float, float]:
        """Half width and half height in mm of the upright box around the femur."""
        cos, sin = abs(np.cos(self.pose.angle)), abs(np.sin(self.pose.angle))
        across = self.thickness * (1 + self.FLARE) / 2 + abs(self.bow)
        return float(self.length / 2 * cos + across * sin), float(self.length / 2 * sin + across * cos)

    def distance(self, u: Float, v: Float) -> Float:
        """Signed distance in mm to the bar's edge (negative inside) of points in its own coordinates.

        The end caps are discs of the end's width, so that the tips lie `length` apart on the line v = 0.
        """
        end_radius = self.thickness * (1 + self.FLARE) / 2
        half_chord = self.length / 2 - end_radius
        along = np.clip(u / half_chord, -1, 1)
        square = along * along
        beside = v - self.bow * (1 - square)
        beyond = np.maximum(np.abs(u) - half_chord, 0)
        radius = self.thickness / 2 * (1 + self.FLARE * square * square)
        return np.asarray(np.hypot(beyond, beside) - radius)

    def mask(self, height: int, width: int, spacing: float) -> Mask:
        """Pixels (H, W) whose centre lies inside the bar."""
        u, v = self.pose.local(*pixel_centres(height, width, spacing))
        return np.asarray(self.distance(u, v) <= 0)
