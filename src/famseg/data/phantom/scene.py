"""One subject, one picture: sizes, where head and femur lie, how the probe looks at them. Lengths in mm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from famseg.biometry import standards
from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Femur, Head, Pose
from famseg.data.phantom.scan import Pulse, Sector

PLANES = ("head", "femur", "both", "none")
Pair = NDArray[np.float64]  # (x, z)
GAP = 4.0  # between a head and a femur


@dataclass(frozen=True)
class Subject:
    """What all pictures of one examination share.

    Attributes:
        hc: head circumference.
        cephalic_index: BPD over OFD.
        fl: femur length.
        femur_ratio: thickness of the femur over its length.
        pulse_scale: width of the pulse against a common probe's.
        looks: pictures from several directions that the scanner averages (spatial compounding).
        dynamic_range: of the log compression, dB.
        gamma: of the display.
        gain: dB.
    """

    hc: float
    cephalic_index: float
    fl: float
    femur_ratio: float
    pulse_scale: float
    looks: int
    dynamic_range: float
    gamma: float
    gain: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Subject":
        """A fetus of 14 to 38 weeks, most near 20, with sizes from the INTERGROWTH-21st standards."""
        weeks = float(rng.triangular(14, 20, 38))
        z_head, z_femur = rng.normal(0, 0.8, size=2)
        return cls(
            hc=float(standards.HC.mean(weeks) + z_head * standards.HC.sd(weeks)),
            cephalic_index=float(np.clip(rng.normal(0.79, 0.035), 0.7, 0.88)),
            fl=float(standards.FL.mean(weeks) + z_femur * standards.FL.sd(weeks)),
            femur_ratio=rng.uniform(0.07, 0.11),
            pulse_scale=rng.uniform(0.8, 1.3),
            looks=int(rng.integers(2, 5)),
            dynamic_range=rng.uniform(54, 64),
            gamma=rng.uniform(1.2, 1.6),
            gain=rng.normal(-1.5, 2.5),
        )


@dataclass(frozen=True)
class Scene:
    """The geometry of one picture of `height` x `width` pixels."""

    height: int
    width: int
    spacing: float
    head: Head | None
    femur: Femur | None
    sector: Sector
    pulse: Pulse

    @property
    def size(self) -> Pair:
        """Width and height of the picture."""
        return np.array([self.width, self.height]) * self.spacing


def draw_scene(
    subject: Subject, plane: str, height: int, width: int, look: Difficulty, rng: np.random.Generator
) -> Scene:
    """Lay head and/or femur of a subject into a picture and aim the probe at them."""
    angles = np.deg2rad(np.clip(rng.normal(0, look.tilt, size=2), -80, 80))
    head = Head.from_circumference(subject.hc, subject.cephalic_index, Pose(0, 0, float(angles[0])))
    bow, thickness = rng.normal(0, 0.03) * subject.fl, subject.femur_ratio * subject.fl
    femur = Femur(subject.fl, thickness, bow, Pose(0, 0, float(angles[1])))
    shown = {"femur": (femur,), "both": (head, femur)}.get(plane, (head,))  # an empty view is as wide as a head

    below = height > rng.uniform(0, 2) * width  # the taller the picture, the more often
    offsets, half = _side_by_side([item.extent() for item in shown], below, rng)
    fill = rng.uniform(*look.fill) * (0.75 if plane == "femur" else 1.0)
    spacing = float(np.max(2 * half / (fill * np.array([width, height]))))
    size = np.array([width - 1, height - 1]) * spacing
    free = np.maximum(0.95 * size / 2 - half, 0) + (look.cut * half if plane == "head" else 0)
    centre = size / 2 + rng.triangular(-1, 0, 1, size=2) * free

    head = replace(head, pose=head.pose.moved(*offsets[0] + centre))
    thickness = max(thickness, look.femur_px * spacing)
    femur = replace(femur, pose=femur.pose.moved(*offsets[-1] + centre), thickness=thickness)
    sector = _aim(size, centre, half, 0.9 if plane == "head" else 0.0, rng)
    pulse = _pulse(sector, centre, subject.pulse_scale)
    return Scene(
        height,
        width,
        spacing,
        head if plane in ("head", "both") else None,
        femur if plane in ("femur", "both") else None,
        sector,
        pulse,
    )


def _side_by_side(extents: Sequence[tuple[float, float]], below: bool, rng: np.random.Generator) -> tuple[Pair, Pair]:
    """Centres (n, 2) of one or two boxes around the middle of the box around them, and that box's half sides (2,)."""
    halves = np.array(extents)
    half = halves.max(axis=0)
    offsets = np.zeros_like(halves)
    if len(halves) == 2:
        axis = 1 if below else 0  # a femur lies below or beside the head: above, its shadow would hide the skull
        half[axis] = halves[:, axis].sum() + GAP / 2
        offsets[:, axis] = (halves[:, axis] - half[axis]) * [1, -1]
        if not below and rng.random() < 0.5:
            offsets = -offsets
    return offsets, half


def _aim(size: Pair, centre: Pair, half: Pair, widest: float, rng: np.random.Generator) -> Sector:
    """A sector that covers the box of the objects, `widest` of the way from its top down to its middle.

    Zooms into the depth lose the probe's arc, wide views show it.
    """
    top = centre[1] - half[1]
    dip = rng.uniform(0, 1) * min(0.06 * size[1], max(top, 0))  # the arc ends above the objects
    skipped = -dip if rng.random() < 0.5 else rng.uniform(0, 0.5) * size[1]
    apex_x = size[0] / 2 + rng.normal(0, 0.04) * size[0]
    z = top + widest * half[1]
    wide = max(rng.uniform(0.75, 1.15) * size[0] / 2, 1.03 * (abs(centre[0] - apex_x) + half[0]))
    least = wide / np.tan(np.deg2rad(rng.uniform(25, 42)))  # a wider fan needs a probe with a larger radius
    probe = max(rng.uniform(38, 60), least - z - max(skipped, 0))
    apex_z = -(probe + skipped)
    half_angle = float(np.arctan2(wide, z - apex_z))
    far = (size[1] - apex_z) * rng.uniform(1.0, 1.08)
    near = max(probe, 0.97 * -apex_z * np.cos(half_angle))
    return Sector(float(apex_x), float(apex_z), float(probe), float(near), float(far), half_angle)


def _pulse(sector: Sector, centre: Pair, scale: float) -> Pulse:
    """The pulse for this depth, focused on the objects: deeper views take lower frequencies."""
    depth = sector.far - sector.probe
    focus = float(np.hypot(centre[0] - sector.apex_x, centre[1] - sector.apex_z)) - sector.probe
    return Pulse(scale * (0.15 + 0.0010 * depth), scale * (0.35 + 0.0035 * depth), focus, 0.45 * depth)
