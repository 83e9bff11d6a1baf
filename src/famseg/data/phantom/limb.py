"""Painters of the thigh with its femur and of bright structures that are neither head nor femur. Lengths in mm."""

import numpy as np

from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Femur, Pose
from famseg.data.phantom.medium import MUSCLE, SKIN, Medium, Tissue, bump, ellipse_distance, soft

BONE_SHADOW = (7.0, 16.0)  # dB that are lost through a femur, least and most


def femur(medium: Medium, femur: Femur, look: Difficulty) -> None:
    """The thigh's muscle and skin, the shaft, and the shadow behind it."""
    rng, pose = medium.rng, femur.pose
    side = rng.choice([-1.0, 1.0])  # thicker at the hip
    window = medium.grid.around(pose.x, pose.z, 1.2 * femur.length)
    u, v = medium.local(pose, window)
    slim = np.clip(1 + 0.35 * side * u / femur.length, 0.6, 1.5) + 0.1 * medium.texture(20, 20, window)
    half = rng.uniform(0.22, 0.36) * femur.length + 0.5 * femur.thickness
    distance, normal_u, normal_v = ellipse_distance(u, v / slim, 0.8 * femur.length, half)
    fibres = 3 * medium.texture(1.2, 12, window) + 2 * medium.texture(3, 5, window)
    medium.fill(window, soft(distance, 1.2), MUSCLE, fibres + 5 * bump(distance + 2, 2))
    facing = medium.perpendicular(normal_u, normal_v, pose, window)
    medium.reflect(window, 0.12 * facing**3 * bump(distance, 0.5))
    _shaft(medium, femur, look)


def _shaft(medium: Medium, femur: Femur, look: Difficulty) -> None:
    """Its near surface is brightest; speckle of its own keeps it from being flat."""
    rng, pose = medium.rng, femur.pose
    window = medium.grid.around(pose.x, pose.z, femur.length)
    u, v = medium.local(pose, window)
    distance = femur.distance(u, v)
    facing = medium.perpendicular(np.zeros_like(u[:1]), np.ones_like(u[:1]), pose, window)
    depth = v / np.float32(femur.thickness)
    uneven = 3.0 * medium.texture(2, 6, window) - 12 * np.clip(depth + 0.2, 0, 1) - 3 * (2 * u / femur.length) ** 4
    level = look.bone - 2 + rng.normal(0, 1.5) + uneven + 20 * look.dropout * np.log10(facing + np.float32(0.03))
    inside = soft(distance + 0.12 * femur.thickness, 0.45 * femur.thickness)
    medium.reflect(window, 10 ** (level / 20) * inside)
    bone = soft(distance, 0.25 * femur.thickness)
    medium.level[window] += bone * (look.bone - 9 + uneven - medium.level[window])
    medium.shadow[window] += bone * (rng.uniform(*BONE_SHADOW) / femur.thickness)


def distractor(medium: Medium, pose: Pose, size: float) -> None:
    """Something bright that is neither head nor femur, `size` mm wide, never labelled."""
    painters = (_cross_section, _fascia, _ribs, _lump, _abdomen)
    painters[medium.rng.integers(len(painters))](medium, pose, size)


def _cross_section(medium: Medium, pose: Pose, size: float) -> None:
    """A limb cut across: round, with one or two short bones and their shadows."""
    medium.blob(pose, size / 2, 0.4 * size, SKIN, 0.3, 2.5 * medium.texture(2, 3))
    for shift in (-0.12, 0.15)[: medium.rng.integers(1, 3)]:
        bone = Pose(pose.x + shift * size, pose.z + 0.1 * shift * size, medium.rng.normal(0, 0.3))
        medium.stroke(bone, 0.1 * size, 0.05 * size + 0.6, 0.5)
        window = medium.grid.around(bone.x, bone.z, 0.1 * size)
        medium.shadow[window] += 3 * bump(np.hypot(*medium.local(bone, window)), 0.05 * size)


def _fascia(medium: Medium, pose: Pose, size: float) -> None:
    """A thin bent line in pieces, without a shadow."""
    for along in np.arange(-0.5, 0.5, 0.2):
        x, z = pose.x + along * size * np.cos(pose.angle), pose.z + along * size * np.sin(pose.angle)
        piece = Pose(x, z - 0.3 * size * along**2, pose.angle - 0.6 * along)
        medium.stroke(piece, 0.15 * size, medium.rng.uniform(0.5, 1.2), medium.rng.uniform(0.02, 0.3))


def _ribs(medium: Medium, pose: Pose, size: float) -> None:
    """Ribs or vertebrae: a row of short echoes with shadows."""
    number = int(medium.rng.integers(3, 8))
    for along in np.linspace(-0.5, 0.5, number):
        x, z = pose.x + along * size * np.cos(pose.angle), pose.z + along * size * np.sin(pose.angle)
        bone = Pose(x, z + medium.rng.normal(0, 0.3), pose.angle)
        medium.stroke(bone, 0.4 * size / number, 1.2, medium.rng.uniform(0.2, 0.6))
        window = medium.grid.around(x, z, 0.5 * size / number)
        medium.shadow[window] += 5 * bump(np.hypot(*medium.local(bone, window)), 0.25 * size / number)


def _lump(medium: Medium, pose: Pose, size: float) -> None:
    """An uneven bright patch: bowel, fat, placenta's edge."""
    bright = Tissue(-24 + medium.rng.normal(0, 3), 1.2)
    medium.blob(pose, size / 2, size / 4, bright, 1.0, 4 * medium.texture(0.1 * size, 0.2 * size))


def _abdomen(medium: Medium, pose: Pose, size: float) -> None:
    """Round and large like a head, without a skull."""
    a, b = 0.9 * size, medium.rng.uniform(0.6, 0.85) * size
    window = medium.grid.around(pose.x, pose.z, 1.1 * a)
    u, v = medium.local(pose, window)
    distance, normal_u, normal_v = ellipse_distance(u, v, a, b)
    inner = 4 * medium.texture(0.3 * size, 0.3 * size) + 3 * medium.texture(3, 5)
    medium.fill(window, soft(distance, 1.5), Tissue(-34, 1.0), inner[window])
    facing = medium.perpendicular(normal_u, normal_v, pose, window)
    medium.reflect(window, 0.2 * facing**3 * bump(distance + 0.5, 0.7))
    medium.blob(Pose(pose.x + 0.3 * a, pose.z, 0.2), 0.2 * a, 0.12 * a, Tissue(-58, 0.2))  # stomach
