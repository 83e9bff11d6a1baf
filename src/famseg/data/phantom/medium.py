"""What the sound meets: echo level, smooth reflectors and loss on the polar grid, and brushes to paint them."""

from dataclasses import dataclass

import cv2
import numpy as np

from famseg.data.phantom.geometry import Float, Pose
from famseg.data.phantom.scan import Grid, Image

Window = tuple[slice, slice]
WHOLE: Window = (slice(None), slice(None))


@dataclass(frozen=True)
class Tissue:
    """A tissue.

    Attributes:
        level: mean echo level of its scatterers in dB, 0 = white.
        loss: two-way attenuation relative to that of maternal tissue.
    """

    level: float
    loss: float


MATERNAL = Tissue(-30, 1.0)
FLUID = Tissue(-66, 0.1)
SKIN = Tissue(-36, 0.9)
BRAIN = Tissue(-44, 0.7)
VENTRICLE = Tissue(-56, 0.5)
MUSCLE = Tissue(-38, 1.0)


class Medium:
    """Maps over a grid, (depth, line) each, that structures are painted on.

    Attributes:
        grid: the polar grid.
        rng: generator of whatever a painter draws.
        level: echo level of the scatterers in dB, 0 = white.
        mirror: amplitude of smooth reflectors, 1 = white.
        loss: two-way attenuation relative to that of maternal tissue.
        shadow: two-way attenuation beyond that, in dB per mm.
    """

    def __init__(self, grid: Grid, tissue: Tissue, rng: np.random.Generator) -> None:
        self.grid, self.rng = grid, rng
        self.level: Image = np.full(grid.shape, tissue.level, np.float32)
        self.mirror: Image = np.zeros(grid.shape, np.float32)
        self.loss: Image = np.full(grid.shape, tissue.loss, np.float32)
        self.shadow: Image = np.zeros(grid.shape, np.float32)

    def local(self, pose: Pose, window: Window) -> tuple[Float, Float]:
        """Coordinates (u, v) in mm along and across an object, of the samples in a window."""
        return pose.local(self.grid.x[window], self.grid.z[window])

    def perpendicular(self, normal_u: Float, normal_v: Float, pose: Pose, window: Window) -> Float:
        """|cosine| between the beam and a surface whose unit normal is given in an object's coordinates."""
        beam_x, beam_z = (part[:, window[1]] for part in self.grid.beam)
        cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
        normal_x, normal_z = normal_u * cos - normal_v * sin, normal_u * sin + normal_v * cos
        return np.asarray(np.abs(normal_x * beam_x + normal_z * beam_z))

    def texture(self, along: float, across: float, window: Window = WHOLE) -> Image:
        """Smooth noise over a window, standard deviation about 1, its bumps that many mm in depth and width."""
        length, width = self.grid.extent
        shape = self.level[window].shape
        sizes = length * shape[0] / self.grid.shape[0], width * shape[1] / self.grid.shape[1]
        cells = [int(np.clip(size / bump, 1, 200)) + 2 for size, bump in zip(sizes, (along, across), strict=True)]
        coarse = self.rng.standard_normal(cells, dtype=np.float32) * np.float32(1.3)
        if 0 in shape:  # the window lies outside the sector
            return np.zeros(shape, np.float32)
        return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC))

    def fill(self, window: Window, weight: Float, tissue: Tissue, texture: Float | float = 0.0) -> None:
        """Put a tissue where `weight` is 1, in place of what was there; `texture` varies its level (dB)."""
        self.level[window] += weight * (tissue.level + texture - self.level[window])
        self.loss[window] += weight * (tissue.loss - self.loss[window])
        self.mirror[window] *= 1 - weight
        self.shadow[window] *= 1 - weight

    def reflect(self, window: Window, strength: Float) -> None:
        """Add a smooth reflector; where several meet, the strongest is seen."""
        np.maximum(self.mirror[window], strength, out=self.mirror[window], casting="same_kind")

    def blob(
        self, pose: Pose, a: float, b: float, tissue: Tissue, edge: float = 0.4, texture: Float | None = None
    ) -> None:
        """Fill an ellipse with semi-axes a and b, softened over `edge` of them; `texture` is over the whole grid."""
        window = self.grid.around(pose.x, pose.z, 1.5 * max(a, b))
        u, v = self.local(pose, window)
        distance = np.sqrt((u / np.float32(a)) ** 2 + (v / np.float32(b)) ** 2) - 1
        self.fill(window, soft(distance, edge), tissue, 0.0 if texture is None else texture[window])

    def stroke(self, pose: Pose, half: float, thickness: float, strength: float, bend: float = 0.0) -> None:
        """A short smooth reflector, `half` mm to each side of the pose, `bend` mm higher at its ends.

        It is brightest where the beam meets it at a right angle, and fades towards its ends.
        """
        window = self.grid.around(pose.x, pose.z, half + abs(bend) + 2 * thickness)
        u, v = self.local(pose, window)
        u = u / np.float32(half)
        facing = self.perpendicular(np.zeros_like(u[:1]), np.ones_like(u[:1]), pose, window) ** 2
        along = np.clip(1.6 - 1.6 * np.abs(u), 0, 1)
        self.reflect(window, strength * facing * along * bump(v - bend * u**2, thickness / 2))


def soft(distance: Float, width: float) -> Float:
    """Weight of the inside of a signed distance: 1 inside, 0 outside, a ramp of `width` between."""
    return np.asarray(np.clip(np.float32(0.5) - distance / np.float32(width), 0, 1))


def bump(distance: Float, width: float) -> Float:
    """exp(-(distance / width)^2)."""
    return np.asarray(np.exp(-((distance / np.float32(width)) ** 2)))


def ellipse_distance(u: Float, v: Float, a: float, b: float) -> tuple[Float, Float, Float]:
    """Signed distance to an ellipse (first order, negative inside) and its unit normal (u, v)."""
    q = np.sqrt((u / np.float32(a)) ** 2 + (v / np.float32(b)) ** 2) + np.float32(1e-6)
    gu, gv = u / np.float32(a * a), v / np.float32(b * b)
    steep = np.sqrt(gu**2 + gv**2) + np.float32(1e-9)
    return (q - 1) * q / steep, gu / steep, gv / steep
