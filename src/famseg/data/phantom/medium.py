"""What the sound meets: echo level, smooth reflectors and loss on the polar grid, and brushes to paint them."""

import cv2
import numpy as np

from famseg.data.phantom.geometry import Float, Pose
from famseg.data.phantom.scan import Grid, Image

Window = tuple[slice, slice]


class Medium:
    """Maps over a grid, (depth, line) each, that structures are painted on.

    Attributes:
        grid: the polar grid.
        level: echo level of the scatterers in dB, 0 = white.
        mirror: amplitude of smooth reflectors, 1 = white.
        loss: two-way loss in dB per mm.
    """

    def __init__(self, grid: Grid, level: float, loss: float, rng: np.random.Generator) -> None:
        self.grid, self.rng = grid, rng
        self.level: Image = np.full(grid.shape, level, np.float32)
        self.mirror: Image = np.zeros(grid.shape, np.float32)
        self.loss: Image = np.full(grid.shape, loss, np.float32)

    def local(self, pose: Pose, window: Window) -> tuple[Float, Float]:
        """Coordinates (u, v) in mm along and across an object, of the samples in a window."""
        return pose.local(self.grid.x[window], self.grid.z[window])

    def perpendicular(self, normal_u: Float, normal_v: Float, pose: Pose, window: Window) -> Float:
        """|cosine| between the beam and a surface whose unit normal is given in an object's coordinates."""
        beam_x, beam_z = (part[:, window[1]] for part in self.grid.beam)
        cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
        normal_x, normal_z = normal_u * cos - normal_v * sin, normal_u * sin + normal_v * cos
        return np.asarray(np.abs(normal_x * beam_x + normal_z * beam_z))

    def fill(self, window: Window, weight: Float, level: Float | float, loss: float | None = None) -> None:
        """Blend a tissue in: `weight` 1 replaces what was there."""
        self.level[window] += weight * (level - self.level[window])
        if loss is not None:
            self.loss[window] += weight * (loss - self.loss[window])

    def reflect(self, window: Window, amplitude: Float) -> None:
        """Add a smooth reflector; where several meet, the strongest is seen."""
        np.maximum(self.mirror[window], amplitude, out=self.mirror[window], casting="same_kind")

    def texture(self, cells: tuple[int, int]) -> Image:
        """Smooth noise over the whole grid, standard deviation about 1, some `cells` bumps per axis."""
        coarse = self.rng.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32)
        return np.asarray(cv2.resize(coarse, self.grid.shape[::-1], interpolation=cv2.INTER_CUBIC))


def soft(distance: Float, width: float) -> Float:
    """Weight of the inside of a signed distance: 1 inside, 0 outside, over `width` mm."""
    return np.clip(np.float32(0.5) - distance / np.float32(width), 0, 1)


def ellipse_distance(u: Float, v: Float, a: float, b: float) -> tuple[Float, Float, Float]:
    """Signed distance to an ellipse (first order, negative inside) and its unit normal (u, v)."""
    q = np.sqrt((u / np.float32(a)) ** 2 + (v / np.float32(b)) ** 2) + np.float32(1e-6)
    gu, gv = u / np.float32(a * a), v / np.float32(b * b)
    steep = np.sqrt(gu**2 + gv**2) + np.float32(1e-9)
    return (q - 1) * q / steep, gu / steep, gv / steep
