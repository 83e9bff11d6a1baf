"""Painters: maternal tissue, fluid, head, femur with thigh, and what is neither. Levels in dB, lengths in mm."""

import numpy as np

from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Femur, Float, Head, Pose
from famseg.data.phantom.medium import Medium, Window, ellipse_distance, soft

TISSUE, FLUID, BRAIN, MUSCLE, SCALP = -27.0, -58.0, -36.0, -31.0, -31.0  # dB below white
TISSUE_LOSS, FLUID_LOSS, BRAIN_LOSS, BONE_LOSS = 0.3, 0.05, 0.2, 4.0  # dB per mm, both ways


def tissue(medium: Medium) -> None:
    """Uneven maternal tissue everywhere, its layers under the probe."""
    medium.level += 2.5 * medium.texture((5, 4)) + 2.0 * medium.texture((24, 14))
    depth = medium.grid.radius - medium.grid.sector.probe
    thickness = medium.rng.uniform(6, 22)
    shift = 0.06 * thickness * medium.texture((3, 3))
    phase = (depth + shift) / thickness
    bands = np.sin(phase * np.float32(medium.rng.uniform(14, 26))) + np.sin(
        phase * np.float32(medium.rng.uniform(30, 50))
    )
    weight = np.clip(2.5 - 2.5 * phase, 0, 1)
    medium.level += weight * (4 * bands - 2)
    line = np.exp(-(((phase - 1) * thickness / 0.5) ** 2))  # the fascia below them
    medium.reflect(np.s_[:, :], 0.12 * line * np.clip(1 + medium.texture((2, 5)), 0, 2))


def fluid(medium: Medium, pose: Pose, a: float, b: float) -> None:
    """A pool of amniotic fluid, uneven ellipse with semi-axes a and b, with the uterine wall around it."""
    window = np.s_[:, :]
    u, v = medium.local(pose, window)
    distance, normal_u, normal_v = ellipse_distance(u, v, a, b)
    distance = distance + 0.12 * min(a, b) * medium.texture((4, 4))
    medium.fill(window, soft(distance, 1.5), FLUID, FLUID_LOSS)
    cosine = medium.perpendicular(normal_u, normal_v, pose, window)
    medium.reflect(window, 0.25 * cosine**4 * np.exp(-((distance - 1) ** 2)))


def head(medium: Medium, head: Head, look: Difficulty) -> None:
    """Scalp, skull and brain. The wall fills the outermost 2 to 3 mm of the ellipse, as in HC18's outlines."""
    pose, a, b = head.pose, head.ofd / 2, head.bpd / 2
    window = medium.grid.around(pose.x, pose.z, a + 8)
    u, v = medium.local(pose, window)
    distance, normal_u, normal_v = ellipse_distance(u, v, a, b)
    direction = np.arctan2(normal_v, normal_u)
    for waves in (2, 3, 4, 6):
        distance += (
            look.irregular * b / waves * medium.rng.normal() * np.cos(waves * direction + medium.rng.uniform(0, 6))
        )
    cosine = medium.perpendicular(normal_u, normal_v, pose, window)
    scalp = 0.03 * b + 1.5
    medium.fill(window, soft(distance - scalp, 1), SCALP - 3, TISSUE_LOSS)
    medium.reflect(window, 0.06 * cosine**2 * np.exp(-(((distance - scalp) / 0.6) ** 2)))
    medium.fill(window, soft(distance, 1), BRAIN, BRAIN_LOSS)
    _brain(medium, head, window, u, v)
    _skull(medium, window, distance, direction, cosine, 0.022 * head.bpd + 0.5, look)


def _skull(
    medium: Medium, window: Window, distance: Float, direction: Float, cosine: Float, thickness: float, look: Difficulty
) -> None:
    """Bright where the beam meets the wall at a right angle; sutures and uneven thickness make it irregular."""
    rng = medium.rng
    uneven = sum(rng.normal() / k * np.cos(k * direction + np.float32(rng.uniform(0, 6))) for k in (3, 5, 8, 13))
    strength = cosine**look.dropout * np.power(np.float32(10), (look.bone - 2 + 1.5 * uneven) / 20)
    profile = np.exp(-(((distance + thickness / 2) / (0.5 * thickness)) ** 2))
    medium.reflect(window, strength * profile)
    wall = soft(np.abs(distance + thickness / 2) - thickness / 2, 0.5)
    medium.fill(window, wall, look.bone - 16 - 14 * (1 - cosine), 1.0)


def _brain(medium: Medium, head: Head, window: Window, u: Float, v: Float) -> None:
    """Mid-line with its gap, cavum, thalami, ventricle and choroid plexus on the far side, short echoes."""
    rng, pose = medium.rng, head.pose
    a, b = head.ofd / 2, head.bpd / 2
    u, v = u / np.float32(a), v / np.float32(b)
    inside = soft((u**2 + v**2 - 0.8), 0.3)
    texture = medium.texture((14, 10))[window] * 2 + medium.texture((40, 26))[window] * 1.5
    medium.level[window] += inside * texture
    medium.level[window] += inside * rng.uniform(0, 7) * np.clip(-v, 0, 1)  # the near half lies in reverberations

    front = rng.choice([-1.0, 1.0])
    u = u * np.float32(front)

    def lobe(cu: float, cv: float, ru: float, rv: float, level: float) -> None:
        weight = soft(np.sqrt(((u - cu) / ru) ** 2 + ((v - cv) / rv) ** 2) - 1, 0.5)
        medium.fill(window, weight, level + texture)

    def line(cu: float, cv: float, half: float, strength: float, bend: float = 0.0) -> None:
        across = (v - cv - bend * (u - cu) ** 2) * b
        along = np.clip(1.5 - 1.5 * np.abs(u - cu) / half, 0, 1)
        medium.reflect(window, strength * along * np.exp(-((across / 0.5) ** 2)) * flicker)

    flicker = np.clip(0.7 + 0.5 * medium.texture((6, 18))[window], 0.05, 1.6)
    jitter = rng.normal(0, 0.03, size=8)
    lobe(-0.05, 0.17, 0.2, 0.16, BRAIN - 4)
    lobe(-0.05, -0.17, 0.2, 0.16, BRAIN - 4)
    lobe(-0.5 + jitter[0], 0.4 + jitter[1], 0.27, 0.16, BRAIN - 14)  # ventricle
    lobe(-0.42 + jitter[2], 0.42 + jitter[3], 0.17, 0.13, BRAIN + rng.uniform(6, 13))  # choroid plexus
    lobe(0.45, 0, 0.14, 0.09, BRAIN - 14)  # cavum septi pellucidi
    line(-0.45, 0, 0.42, 0.12)
    line(0.72, 0, 0.2, 0.15)
    line(0.45, 0.1, 0.15, 0.25)
    line(0.45, -0.1, 0.15, 0.25)
    line(-0.02, 0, 0.12, 0.08)
    line(0.5 + jitter[4], 0.38 + jitter[5], 0.16, rng.uniform(0.05, 0.3), 0.3)
    line(0.5 + jitter[6], -0.38 + jitter[7], 0.14, rng.uniform(0.03, 0.2), -0.3)
    line(-0.5, 0.27, 0.25, rng.uniform(0.02, 0.12), 0.1)
    line(0.05, 0.66, 0.3, rng.uniform(0.02, 0.12), -0.5)
    for _ in range(rng.integers(4, 12)):
        cu, cv = rng.uniform(-0.65, 0.65, size=2)
        line(cu, cv, rng.uniform(0.03, 0.12), rng.uniform(0.02, 0.15), rng.normal(0, 0.4))


def femur(medium: Medium, femur: Femur, look: Difficulty) -> None:
    """The thigh's muscle and skin, the shaft, and what lies behind it in shadow."""
    pose = femur.pose
    window = medium.grid.around(pose.x, pose.z, femur.length)
    u, v = medium.local(pose, window)
    beside = 0.3 * medium.texture((3, 3))[window]
    distance, normal_u, normal_v = ellipse_distance(u, v - beside, 0.72 * femur.length, 0.25 * femur.length + 4)
    medium.fill(window, soft(distance, 1.2), MUSCLE + 2 * medium.texture((30, 8))[window], TISSUE_LOSS)
    skin = medium.perpendicular(normal_u, normal_v, pose, window) ** 3
    medium.reflect(window, 0.1 * skin * np.exp(-((distance / 0.6) ** 2)))

    distance = femur.distance(u, v)
    cosine = medium.perpendicular(np.zeros_like(u), np.ones_like(u), pose, window)
    uneven = 1 + 0.2 * medium.texture((5, 20))[window]
    core = soft(distance + 0.15 * femur.thickness, 0.5 * femur.thickness)
    bone = 10 ** (look.bone / 20) * (0.35 + 0.65 * cosine ** (2 * look.dropout))
    medium.reflect(window, bone * uneven * core)
    medium.fill(window, soft(distance, 0.4), look.bone - 12.0, 1.5 * BONE_LOSS / femur.thickness)


def distractor(medium: Medium, pose: Pose, size: float, kind: int, look: Difficulty) -> None:
    """Something bright that is neither head nor femur, `size` mm wide, never labelled.

    Kinds: 0 a limb's cross-section (round, one short bone), 1 a bright fascia, 2 a row of ribs or vertebrae with
    shadows, 3 an uneven bright lump, 4 an abdomen (large, round, dim wall).
    """
    window = medium.grid.around(pose.x, pose.z, 1.2 * size)
    u, v = medium.local(pose, window)
    if kind in (0, 4):
        ratio = 0.75 if kind == 0 else 0.9
        distance, normal_u, normal_v = ellipse_distance(u, v, size / 2, ratio * size / 2)
        medium.fill(window, soft(distance, 1.5), MUSCLE + 2 * medium.texture((24, 14))[window], TISSUE_LOSS)
        cosine = medium.perpendicular(normal_u, normal_v, pose, window)
        medium.reflect(window, 0.12 * cosine**3 * np.exp(-(((distance + 0.5) / 0.7) ** 2)))
        spot = np.exp(-((u / (0.08 * size + 0.6)) ** 2) - (v / (0.04 * size + 0.4)) ** 2)
        medium.reflect(window, (0.6 if kind == 0 else 0.1) * spot)
    elif kind == 1:
        along = np.clip(1.2 - 2.4 * np.abs(u) / size, 0, 1) * np.clip(0.7 + 0.5 * medium.texture((4, 16))[window], 0, 2)
        medium.reflect(window, 0.3 * along * np.exp(-(((v - 0.1 * u**2 / size) / 0.6) ** 2)))
    elif kind == 2:
        pitch = size / medium.rng.integers(4, 8)
        within = (np.abs(u) < size / 2) * np.exp(-((v / 1.0) ** 2))
        row = within * np.clip(2 * np.cos(2 * np.pi * u / pitch) - 0.8, 0, 1)
        medium.reflect(window, 0.6 * row)
        medium.fill(window, row, TISSUE, BONE_LOSS)
    else:
        distance, _, _ = ellipse_distance(u, v, size / 2, size / 5)
        lump = soft(distance + 0.1 * size * medium.texture((20, 12))[window], 0.3 * size)
        medium.fill(window, lump, -14 + 3 * medium.texture((40, 24))[window])
