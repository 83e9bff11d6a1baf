"""One subject, one picture: ages and sizes, where head and femur lie, how the probe looks at them."""

from dataclasses import dataclass, replace

import numpy as np

from famseg.biometry import standards
from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Femur, Head, Pose
from famseg.data.phantom.scan import Pulse, Sector

PLANES = ("head", "femur", "both", "none")


@dataclass(frozen=True)
class Subject:
    """What all pictures of one examination share.

    Attributes:
        head: size of the head, in no position yet.
        femur_length: femur length in mm.
        femur_ratio: thickness of the femur over its length.
        pulse_scale: width of the pulse against a common probe's.
        dynamic_range: of the log compression, dB.
        gamma: of the display.
        gain: dB.
    """

    head: Head
    femur_length: float
    femur_ratio: float
    pulse_scale: float
    dynamic_range: float
    gamma: float
    gain: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Subject":
        """A fetus of 14 to 38 weeks (most near 20), sizes from the INTERGROWTH-21st standards."""
        g = float(rng.triangular(14, 20, 38))
        z_head, z_femur = rng.normal(0, 0.8, size=2)
        hc = standards.HC.mean(g) + z_head * standards.HC.sd(g)
        fl = standards.FL.mean(g) + z_femur * standards.FL.sd(g)
        cephalic_index = float(np.clip(rng.normal(0.79, 0.035), 0.7, 0.88))
        return cls(
            head=Head.from_circumference(hc, cephalic_index),
            femur_length=fl,
            femur_ratio=rng.uniform(0.1, 0.14),
            pulse_scale=rng.uniform(0.8, 1.3),
            dynamic_range=rng.uniform(54, 64),
            gamma=rng.uniform(1.1, 1.5),
            gain=rng.normal(0, 2),
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


def draw_scene(
    subject: Subject, plane: str, height: int, width: int, look: Difficulty, rng: np.random.Generator
) -> Scene:
    """Lay head and/or femur of a subject into a picture and aim the probe at them."""
    tilt = [float(np.deg2rad(np.clip(rng.normal(0, look.tilt), -80, 80))) for _ in range(2)]
    head = replace(subject.head, pose=Pose(0, 0, tilt[0])) if plane in ("head", "both") else None
    length, bow = subject.femur_length, rng.normal(0, 0.03)
    bar = Femur(length, subject.femur_ratio * length, bow * length, Pose(0, 0, tilt[1]))
    femur = bar if plane in ("femur", "both") else None
    fill = rng.uniform(*look.fill) * (0.75 if plane == "femur" else 1.0)
    boxes = [item.extent() for item in (head, femur) if item] or [(1.2 * length, 0.5 * length)]
    below = rng.random() < 0.5 * width / height
    across, along = np.asarray(boxes).T
    gap = 4.0
    if below:
        half = (across.max(), along.sum() + gap / 2 * (len(boxes) - 1))
    else:
        half = (across.sum() + gap / 2 * (len(boxes) - 1), along.max())
    spacing = float(max(2 * half[0] / (fill * width), 2 * half[1] / (fill * height)))
    if femur:
        thickness = max(femur.thickness, look.femur_px * spacing)
        femur = replace(femur, thickness=thickness)
    size = np.array([width - 1, height - 1]) * spacing
    free = np.maximum(size / 2 - np.array(half), 0) * 0.9
    if plane == "head":
        free = free + look.cut * np.array(half)
    centre = size / 2 + rng.uniform(-1, 1, size=2) * free
    places = _places(boxes, below, gap, centre, rng)
    if head:
        head = replace(head, pose=Pose(*places[0], tilt[0]))
    if femur:
        femur = replace(femur, pose=Pose(*places[-1], tilt[1]))
    sector = _aim(size, centre, np.array(half), rng)
    depth = sector.far - sector.probe
    pulse = Pulse(
        axial=subject.pulse_scale * (0.16 + 0.0012 * depth),
        lateral=subject.pulse_scale * (0.4 + 0.004 * depth),
        focus=float(np.hypot(centre[0] - sector.apex_x, centre[1] - sector.apex_z) - sector.probe),
        reach=0.45 * depth,
    )
    return Scene(height, width, spacing, head, femur, sector, pulse)


def _places(
    boxes: list[tuple[float, float]], below: bool, gap: float, centre: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Centres of one object, or of a head and a femur below or beside it."""
    if len(boxes) == 1:
        return [(float(centre[0]), float(centre[1]))]
    axis = 1 if below else 0
    sizes = [box[axis] for box in boxes]
    side = 1.0 if below or rng.random() < 0.5 else -1.0
    offsets = (-side * (sizes[1] + gap / 2), side * (sizes[0] + gap / 2))
    return [(float(centre[0] + (0 if below else o)), float(centre[1] + (o if below else 0))) for o in offsets]


def _aim(size: np.ndarray, centre: np.ndarray, half: np.ndarray, rng: np.random.Generator) -> Sector:
    """A sector that covers the objects; deep zooms lose the probe's arc, wide views show it."""
    probe = rng.uniform(38, 60)
    whole = rng.random() < 0.5
    skipped = -rng.uniform(0.0, 0.06) * size[1] if whole else rng.uniform(0, 0.5) * size[1]
    apex_z = -(probe + skipped)
    apex_x = size[0] / 2 + rng.normal(0, 0.04) * size[0]
    reach = abs(centre[0] - apex_x) + half[0]
    wide = max(rng.uniform(0.75, 1.15) * size[0] / 2, 1.03 * reach)
    half_angle = float(np.clip(np.arctan2(wide, centre[1] - apex_z), np.deg2rad(8), np.deg2rad(60)))
    far = (size[1] - apex_z) * rng.uniform(1.0, 1.08)
    near = max(probe, -apex_z * np.cos(half_angle) * 0.97)
    return Sector(float(apex_x), float(apex_z), float(probe), float(near), float(far), half_angle)
