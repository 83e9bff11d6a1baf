"""Painter of the brain. Places are in units of the skull's semi-axes, levels in dB."""

import numpy as np

from famseg.data.phantom.geometry import Float, Head, Pose
from famseg.data.phantom.medium import BRAIN, VENTRICLE, Medium, Tissue, Window
from famseg.data.phantom.scan import Image


def brain(medium: Medium, head: Head, window: Window, v: Float, inside: Float) -> None:
    """A transverse section through thalami and cavum.

    Reverberations of the near skull cloud the near half, so that the far one shows more.

    Args:
        medium: is painted on.
        head: where it is.
        window: of the arrays that follow.
        v: distance from the mid-line over the short semi-axis, positive in the far half.
        inside: 1 in the brain, 0 outside.
    """
    rng = medium.rng
    texture = 3.5 * medium.texture(0.1 * head.bpd, 0.15 * head.bpd) + 2.5 * medium.texture(2, 4)
    cloud = rng.uniform(0, 8) * np.clip(0.2 - v, 0, 0.7) - rng.uniform(0, 6) * np.clip(v, 0, 1)
    medium.level[window] += inside * (texture[window] + cloud)
    section = _Section(medium, head, texture)
    _hemispheres(section)
    _midline(section)


class _Section:
    """Brushes in the brain's own coordinates: u towards the forehead, v away from the probe, -1 to 1 in the skull."""

    def __init__(self, medium: Medium, head: Head, texture: Image) -> None:
        self.medium, self.rng, self.texture = medium, medium.rng, texture
        self.pose, self.a, self.b = head.pose, head.ofd / 2, head.bpd / 2
        self.front = self.rng.choice([-1.0, 1.0])  # the side of the forehead

    def place(self, u: float, v: float, turn: float) -> Pose:
        """Near (u, v), about in the direction of the mid-line."""
        du, dv = self.rng.normal(0, 0.03, size=2)
        along, across = self.front * self.a * (u + du), self.b * (v + dv)
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        angle = self.pose.angle + self.rng.normal(0, turn)
        return Pose(0, 0, angle).moved(
            self.pose.x + along * cos - across * sin, self.pose.z + along * sin + across * cos
        )

    def lobe(self, u: float, v: float, ru: float, rv: float, tissue: Tissue, more: float = 0.0) -> None:
        """A soft ellipse of a tissue, `more` dB brighter."""
        brighter = Tissue(tissue.level + more, tissue.loss)
        self.medium.blob(self.place(u, v, 0.05), ru * self.a, rv * self.b, brighter, 0.8, self.texture)

    def line(self, u: float, v: float, half: float, strength: float, bend: float = 0.0, turn: float = 0.05) -> None:
        """A short bright line, `half` to each side."""
        strength = strength * 10 ** (self.rng.normal(0, 4) / 20)
        thickness = self.rng.uniform(0.6, 1.1) + 0.004 * self.b
        self.medium.stroke(self.place(u, v, turn), half * self.a, thickness, strength, bend * self.b)


def _hemispheres(section: _Section) -> None:
    """Patches, thalami, ventricles with choroid plexus, insula, short echoes of the folds."""
    rng, lobe, line = section.rng, section.lobe, section.line
    for u, v in rng.uniform(-0.5, 0.5, size=(5, 2)):
        lobe(u, v, 0.3, 0.25, BRAIN, rng.normal(2, 5))
    for v in (0.18, -0.18):
        lobe(-0.05, v, 0.22, 0.17, BRAIN, -3)  # thalami
    lobe(-0.5, 0.4, 0.3, 0.18, VENTRICLE)
    lobe(-0.42, 0.42, rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.16), BRAIN, rng.uniform(6, 17))  # choroid plexus
    if rng.random() < 0.6:
        lobe(-0.42, -0.42, 0.2, 0.13, BRAIN, rng.uniform(3, 9))
    for u in (-0.62, -0.45, -0.3):  # walls of the ventricles
        line(u, 0.25, 0.12, 0.06, turn=0.15)
    line(0.5, 0.38, 0.11, 0.15, turn=0.15)
    line(0.5, -0.36, 0.1, 0.08, turn=0.15)
    for u in (-0.15, 0.05, 0.2):  # insula
        line(u, 0.66, 0.12, 0.05, turn=0.15)
    for u, v in rng.uniform(-0.62, 0.62, size=(rng.integers(6, 18), 2)):
        line(u, v, rng.uniform(0.02, 0.1), 0.04, rng.normal(0, 0.02), turn=0.3)


def _midline(section: _Section) -> None:
    """Falx and third ventricle in pieces, the cavum septi pellucidi between its two walls."""
    rng = section.rng
    for u in np.arange(-0.8, 0.9, rng.uniform(0.1, 0.25)):
        if abs(u - 0.42) > 0.15:
            section.line(u, 0, rng.uniform(0.06, 0.18), 0.09)
    if rng.random() < 0.75:
        wide = rng.uniform(0.06, 0.11)
        section.lobe(0.42, 0, 0.14, wide, VENTRICLE)
        section.line(0.42, wide, 0.13, 0.3)
        section.line(0.42, -wide, 0.13, 0.25)
