"""The convex probe: its sector in the picture, its polar grid, and the way back to pixels."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.data.phantom.geometry import Float, pixel_centres

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Sector:
    """The part of the plane that a convex probe scans, in mm of the picture (see `Pose`).

    Attributes:
        apex_x: x of the point where all scan lines meet.
        apex_z: z of that point, negative when it lies above the picture.
        probe: radius of the probe's surface around the apex.
        near: radius where the shown part begins.
        far: radius of the lower arc.
        half_angle: half of the opening angle in radians.
    """

    apex_x: float
    apex_z: float
    probe: float
    near: float
    far: float
    half_angle: float


@dataclass(frozen=True)
class Pulse:
    """The point spread function in mm: Gaussian, constant along the beam, depth-dependent across it.

    Attributes:
        axial: standard deviation along the beam.
        lateral: standard deviation across the beam in the focus.
        focus: depth of the transmit focus under the probe.
        reach: distance from the focus where the beam is sqrt(2) times as wide.
    """

    axial: float
    lateral: float
    focus: float
    reach: float

    def lateral_at(self, depth: Float) -> Float:
        """Standard deviation across the beam at `depth` mm under the probe."""
        return np.asarray(self.lateral * np.sqrt(1 + ((depth - self.focus) / self.reach) ** 2))


class Grid:
    """Samples of a sector: scan lines over angle, samples along each; arrays are (depth, line).

    The grid is as fine as the picture, or as the pulse where the picture is finer than it resolves.

    Attributes:
        radius: (D, 1) distances from the apex in mm.
        angle: (1, L) angles from the vertical, in radians.
        step: distance of two samples along a line in mm.
        turn: angle between two lines in radians.
        x, z: (D, L) coordinates in mm of the picture.
    """

    def __init__(self, sector: Sector, pulse: Pulse, spacing: float) -> None:
        self.sector, self.pulse, self.spacing = sector, pulse, spacing
        length = sector.far - sector.near
        middle = (sector.far + sector.near) / 2
        samples = int(np.ceil(length / max(spacing, pulse.axial))) + 1
        lines = int(np.ceil(2 * sector.half_angle * middle / max(spacing, 0.8 * pulse.lateral))) + 1
        self.radius = np.linspace(sector.near, sector.far, samples, dtype=np.float32)[:, None]
        self.angle = np.linspace(-sector.half_angle, sector.half_angle, lines, dtype=np.float32)[None, :]
        self.step = length / (samples - 1)
        self.turn = 2 * sector.half_angle / (lines - 1)
        self.x = np.float32(sector.apex_x) + self.radius * np.sin(self.angle)
        self.z = np.float32(sector.apex_z) + self.radius * np.cos(self.angle)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples along a line and of lines."""
        return self.x.shape

    @property
    def extent(self) -> tuple[float, float]:
        """Length of a line and width of the sector in its middle, in mm."""
        sector = self.sector
        return sector.far - sector.near, (sector.far + sector.near) * sector.half_angle

    @cached_property
    def beam(self) -> tuple[Float, Float]:
        """Direction (x, z), each (1, L), in which the lines run."""
        return np.sin(self.angle), np.cos(self.angle)

    def around(self, x: float, z: float, reach: float) -> tuple[slice, slice]:
        """Index of the samples that may lie within `reach` mm of the point (x, z)."""
        dx, dz = x - self.sector.apex_x, z - self.sector.apex_z
        distance = float(np.hypot(dx, dz))
        aside = float(np.arcsin(min(1.0, reach / max(distance, 1e-6))))
        first = (distance - reach - self.sector.near) / self.step
        line = (float(np.arctan2(dx, dz)) - aside + self.sector.half_angle) / self.turn
        rows = np.clip([np.floor(first), np.ceil(first + 2 * reach / self.step) + 1], 0, self.shape[0])
        columns = np.clip([np.floor(line), np.ceil(line + 2 * aside / self.turn) + 1], 0, self.shape[1])
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))

    def to_picture(self, values: Image, height: int, width: int) -> Image:
        """Scan conversion: linear interpolation of (D, L) values at the pixel centres, 0 outside the sector."""
        x, z = pixel_centres(height, width, self.spacing)
        dx, dz = (x - self.sector.apex_x).astype(np.float32), (z - self.sector.apex_z).astype(np.float32)
        row = (np.sqrt(dx**2 + dz**2) - np.float32(self.sector.near)) / np.float32(self.step)
        column = (np.arctan2(dx, dz) + np.float32(self.sector.half_angle)) / np.float32(self.turn)
        picture = cv2.remap(values, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (row >= 0) & (row <= self.shape[0] - 1) & (column >= 0) & (column <= self.shape[1] - 1)
        return np.asarray(picture * inside)
