"""Painter of the head: scalp and skull around the brain. Lengths in mm, levels in dB."""

import numpy as np

from famseg.data.phantom.brain import brain
from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Float, Head
from famseg.data.phantom.medium import BRAIN, SKIN, Medium, Window, bump, ellipse_distance, soft


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
    brain(medium, head, window, v / np.float32(b), soft(distance + 0.06 * b, 0.1 * b))
    usual = (0.025 * head.bpd + 0.7) * rng.uniform(0.8, 1.2)
    thickness = usual * (1 + 0.15 * _waves(direction, (1, 2, 3, 5), rng)).clip(0.6, 1.5)
    depth = (distance + 0.5 * thickness) / (0.5 * thickness)  # -1 to 1 through the wall
    medium.level[window] += 5 * facing * soft(distance, 1) * bump(depth + 1.5, 4)  # reverberations under the wall
    _wall(medium, window, depth, direction, facing, look)


def _waves(direction: Float, counts: tuple[int, ...], rng: np.random.Generator) -> Float:
    """A random smooth function around the head, its finer waves weaker."""
    waves = [rng.normal() / n**0.5 * np.cos(n * direction + np.float32(rng.uniform(0, 2 * np.pi))) for n in counts]
    return np.asarray(np.sum(waves, axis=0))


def _wall(medium: Medium, window: Window, depth: Float, direction: Float, facing: Float, look: Difficulty) -> None:
    """The skull: bright where the beam meets it at a right angle, lost at the sides, weaker at two sutures."""
    rng = medium.rng
    uneven = 2.0 * _waves(direction, (1, 2, 3, 5, 9, 14), rng) + 2.0 * medium.texture(2, 4, window)
    suture = sum(6 * bump(np.sin((direction - rng.uniform(0, 2 * np.pi)) / 2), 0.04) for _ in range(2))
    fading = 20 * look.dropout * np.log10(facing + np.float32(0.03))
    level = look.bone - 3 + rng.normal(0, 1.5) + uneven - suture + fading
    medium.reflect(window, 10 ** (level / 20) * bump(depth, 1.0))
    wall = bump(depth, 1.1)
    diffuse = look.bone - 17 - 18 * (1 - facing) - suture
    medium.level[window] += wall * np.maximum(diffuse - medium.level[window], 0)
    medium.shadow[window] += wall * rng.uniform(0.5, 1.6)
