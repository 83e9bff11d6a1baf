"""Painters of what surrounds the fetus: maternal tissue, its layers, amniotic fluid. Lengths in mm."""

import numpy as np

from famseg.data.phantom.geometry import Pose
from famseg.data.phantom.medium import FLUID, WHOLE, Medium, bump, ellipse_distance, soft


def tissue(medium: Medium) -> None:
    """Uneven tissue everywhere: patches, and streaks that run across the beam as muscle fibres do."""
    medium.level += 4.5 * medium.texture(30, 40) + 2.5 * medium.texture(2.5, 14) + 2.5 * medium.texture(5, 7)


def layers(medium: Medium) -> None:
    """Skin, fat and muscle under the probe: bands along its surface, ended by a fascia."""
    rng, grid = medium.rng, medium.grid
    thickness = rng.uniform(5, 25)
    depth = (grid.radius - grid.sector.probe) / thickness + 0.12 * medium.texture(0.7 * thickness, 35)
    bands = sum(np.sin(depth * rng.uniform(8, 45) + rng.uniform(0, 6)) for _ in range(3))
    weight = np.clip(3 - 3 * depth, 0, 1)
    medium.level += weight * (2.5 * bands - 3)
    fascia = bump((depth - 1) * thickness, 0.5) * np.clip(0.6 + medium.texture(20, 10), 0, 2)
    medium.reflect(WHOLE, rng.uniform(0.03, 0.15) * fascia)
    skin = bump(depth * thickness, 1.2)
    medium.level += 14 * skin


def fluid(medium: Medium, pose: Pose, a: float, b: float) -> None:
    """A pool of amniotic fluid, an uneven ellipse with semi-axes a and b, and the wall of the uterus around it."""
    u, v = medium.local(pose, WHOLE)
    distance, normal_u, normal_v = ellipse_distance(u, v, a, b)
    distance = distance + 0.1 * min(a, b) * medium.texture(b, a) + 0.02 * min(a, b) * medium.texture(0.3 * b, 0.3 * a)
    medium.fill(WHOLE, soft(distance, 1.5), FLUID)
    facing = medium.perpendicular(normal_u, normal_v, pose, WHOLE)
    medium.reflect(WHOLE, medium.rng.uniform(0.03, 0.2) * facing**4 * bump(distance - 0.8, 0.7))
    medium.level += 6 * bump(distance - 3, 3) * facing**2
