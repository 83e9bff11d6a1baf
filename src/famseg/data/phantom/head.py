"""Painter of the head: scalp, skull, brain. Lengths in mm, levels in dB."""

import numpy as np

from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Float, Head, Pose
from famseg.data.phantom.medium import BRAIN, SKIN, VENTRICLE, Medium, Tissue, Window, bump, ellipse_distance, soft


def head(medium: Medium, head: Head, look: Difficulty) -> None:
    """A transverse section. The skull fills the outermost 2 to 3 mm of the ellipse, as it does in HC18's outlines."""
    rng, pose, a, b = medium.rng, head.pose, head.ofd / 2, head.bpd / 2
    window = medium.grid.around(pose.x, pose.z, 1.25 * a + 4)
    u, v = medium.local(pose, window)
    distance, normal_u, normal_v = ellipse_distance(u, v, a, b)
    direction = np.arctan2(normal_v, normal_u)
    distance = distance + look.irregular * b * _waves(direction, (2, 3, 4, 6), rng)
    scalp = rng.uniform(0.03, 0.07) * b + 1.0
    medium.fill(window, soft(distance - scalp, 1), SKIN, 2 * medium.texture(2, 6, window))
    facing = medium.perpendicular(normal_u, normal_v, pose, window)
    medium.reflect(window, 0.06 * facing**2 * bump(distance - scalp, 0.6))
    medium.fill(window, soft(distance, 1), BRAIN)
    _brain(medium, head, window, v / np.float32(b), soft(distance + 0.06 * b, 0.1 * b))
    _skull(medium, window, distance, direction, facing, (0.025 * head.bpd + 0.7) * rng.uniform(0.8, 1.2), look)


def _waves(direction: Float, counts: tuple[int, ...], rng: np.random.Generator) -> Float:
    """A random smooth function around the head, its finer waves weaker."""
    waves = [rng.normal() / n**0.5 * np.cos(n * direction + np.float32(rng.uniform(0, 2 * np.pi))) for n in counts]
    return np.asarray(np.sum(waves, axis=0))


def _skull(
    medium: Medium,
    window: Window,
    distance: Float,
    direction: Float,
    facing: Float,
    thickness: Float | float,
    look: Difficulty,
) -> None:
    """Bright where the beam meets it at a right angle, lost at the sides, thinner at the sutures."""
    rng = medium.rng
    thickness = thickness * (1 + 0.15 * _waves(direction, (1, 2, 3, 5), rng)).clip(0.6, 1.5)
    depth = (distance + 0.5 * thickness) / (0.5 * thickness)  # -1 to 1 through the wall
    uneven = 2.0 * _waves(direction, (1, 2, 3, 5, 9, 14), rng) + 2.0 * medium.texture(2, 4, window)
    suture = sum(6 * bump(np.sin((direction - rng.uniform(0, 2 * np.pi)) / 2), 0.04) for _ in range(2))
    level = (
        look.bone - 3 + rng.normal(0, 1.5) + uneven - suture + 20 * look.dropout * np.log10(facing + np.float32(0.03))
    )
    medium.reflect(window, 10 ** (level / 20) * bump(depth, 1.0))
    wall = bump(depth, 1.1)
    diffuse = Tissue(look.bone - 17, 1.0)
    medium.level[window] += wall * np.maximum(diffuse.level - 18 * (1 - facing) - suture - medium.level[window], 0)
    glow = soft(distance, 1) * bump(depth + 1.5, 4)  # reverberations under the wall
    medium.level[window] += 5 * glow * facing
    medium.shadow[window] += wall * rng.uniform(0.5, 1.6)


def _brain(medium: Medium, head: Head, window: Window, v: Float, inside: Float) -> None:
    """Texture, reverberations in the near half, ventricle with choroid plexus in the far half, mid-line."""
    rng = medium.rng
    texture = 3.5 * medium.texture(0.1 * head.bpd, 0.15 * head.bpd) + 2.5 * medium.texture(2, 4)
    medium.level[window] += inside * texture[window]
    medium.level[window] += inside * (
        rng.uniform(0, 8) * np.clip(0.2 - v, 0, 0.7) - rng.uniform(0, 6) * np.clip(v, 0, 1)
    )
    front = rng.choice([-1.0, 1.0])  # the side of the forehead
    a, b = head.ofd / 2, head.bpd / 2
    cos, sin = np.cos(head.pose.angle), np.sin(head.pose.angle)

    def at(u: float, v: float, spread: float = 0.03, turn: float = 0.05) -> Pose:
        """A place in units of the semi-axes, u towards the forehead, v away from the probe, with some scatter."""
        along, across = front * a * (u + rng.normal(0, spread)), b * (v + rng.normal(0, spread))
        x, z = head.pose.x + along * cos - across * sin, head.pose.z + along * sin + across * cos
        return Pose(float(x), float(z), head.pose.angle + rng.normal(0, turn))

    def lobe(u: float, v: float, ru: float, rv: float, tissue: Tissue, more: float) -> None:
        soft_tissue = Tissue(tissue.level + more, tissue.loss)
        medium.blob(at(u, v), ru * a, rv * b, soft_tissue, 0.8, texture)

    def line(u: float, v: float, half: float, strength: float, bend: float = 0.0, turn: float = 0.05) -> None:
        strength = strength * 10 ** (rng.normal(0, 4) / 20)
        medium.stroke(at(u, v, turn=turn), half * a, rng.uniform(0.6, 1.1) + 0.004 * b, strength, bend * b)

    for _ in range(5):
        lobe(rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), 0.3, 0.25, BRAIN, rng.normal(2, 5))
    lobe(-0.05, 0.18, 0.22, 0.17, BRAIN, -3)  # thalami
    lobe(-0.05, -0.18, 0.22, 0.17, BRAIN, -3)
    lobe(-0.5, 0.4, 0.3, 0.18, VENTRICLE, 0)
    lobe(-0.42, 0.42, rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.16), BRAIN, rng.uniform(6, 17))  # choroid plexus
    if rng.random() < 0.6:
        lobe(-0.42, -0.42, 0.2, 0.13, BRAIN, rng.uniform(3, 9))
    for u in np.arange(-0.8, 0.9, rng.uniform(0.1, 0.25)):  # falx and third ventricle, broken
        if abs(u - 0.42) > 0.15:
            line(u, 0, rng.uniform(0.06, 0.18), 0.09)
    if rng.random() < 0.75:  # cavum septi pellucidi
        wide = rng.uniform(0.06, 0.11)
        lobe(0.42, 0, 0.14, wide, VENTRICLE, 0)
        line(0.42, wide, 0.13, 0.3)
        line(0.42, -wide, 0.13, 0.25)
    for u in (-0.62, -0.45, -0.3):  # walls of the ventricles
        line(u, 0.25, 0.12, 0.06, turn=0.15)
    line(0.5, 0.38, 0.11, 0.15, turn=0.15)
    line(0.5, -0.36, 0.1, 0.08, turn=0.15)
    for u in (-0.15, 0.05, 0.2):  # insula
        line(u, 0.66, 0.12, 0.05, turn=0.15)
    for _ in range(rng.integers(6, 18)):
        line(
            rng.uniform(-0.62, 0.62),
            rng.uniform(-0.62, 0.62),
            rng.uniform(0.02, 0.1),
            0.04,
            rng.normal(0, 0.02),
            turn=0.3,
        )
