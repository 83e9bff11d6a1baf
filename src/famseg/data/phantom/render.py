"""A scene as a grey picture: paint the medium, send the pulse, compensate, compress, convert."""

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.data.phantom import limb, mother
from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Pose
from famseg.data.phantom.head import head
from famseg.data.phantom.medium import MATERNAL, Medium
from famseg.data.phantom.scan import Grid, Image
from famseg.data.phantom.scene import Scene, Subject
from famseg.data.phantom.speckle import amplitude, complex_normal, compress, echoes


def render(scene: Scene, subject: Subject, look: Difficulty, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The B-mode picture (H, W) of a scene, uint8."""
    medium = paint(scene, look, rng)
    grey = compress(receive(medium, subject, look), subject.dynamic_range, subject.gamma)
    picture = medium.grid.to_picture(grey, scene.height, scene.width)
    return np.asarray(np.rint(picture).astype(np.uint8))


def paint(scene: Scene, look: Difficulty, rng: np.random.Generator) -> Medium:
    """Everything that the sound meets, from the back to the front."""
    medium = Medium(Grid(scene.sector, scene.pulse, scene.spacing), MATERNAL, rng)
    mother.tissue(medium)
    main = scene.head or scene.femur
    pose = main.pose if main else Pose(0, 0, 0).moved(*scene.size / 2)
    reach = max(main.extent()) if main else 0.3 * scene.size[0]
    if rng.random() < 0.8:
        x, z = np.array([pose.x, pose.z]) + rng.uniform(-0.7, 0.7, size=2) * [reach, 0.5 * reach]
        a, b = rng.uniform(0.9, 1.8, size=2) * [reach, 0.75 * reach]
        mother.fluid(medium, Pose(x, z, rng.uniform(-0.5, 0.5)), a, b)
    for _ in range(rng.integers(look.distractors[0], look.distractors[1] + 1)):
        x, z = rng.uniform([0, 0.1], 1, size=2) * scene.size
        limb.distractor(medium, Pose(x, z, rng.normal(0, 0.5)), rng.uniform(0.08, 0.25) * scene.size[0])
    mother.layers(medium)
    if scene.femur:
        limb.femur(medium, scene.femur, look)
    if scene.head:
        head(medium, scene.head, look)
    return medium


def receive(medium: Medium, subject: Subject, look: Difficulty) -> Image:
    """Envelope (D, L) after attenuation, reverberation, time-gain compensation and receiver noise; white is 1."""
    grid, rng = medium.grid, medium.rng
    depth = grid.radius - grid.radius[0]
    rate = 0.35 / (1 + grid.extent[0] / 100)  # dB per mm both ways: deeper views take lower frequencies
    lost = np.cumsum(rate * medium.loss + medium.shadow, axis=0, dtype=np.float32) * np.float32(grid.step)
    beam = 2 * round(2 * grid.pulse.lateral / (grid.turn * grid.sector.far)) + 1
    lost = _contact(medium) + cv2.blur(lost, (beam, 1))  # a beam is partly in the shadow
    gain = subject.gain + np.float32(rng.uniform(0.8, 1.0) * rate) * depth + _sliders(grid, rng)
    haze = amplitude(look.haze + 14 * np.exp(-depth / 15))  # echoes between probe and skin
    scatter = np.hypot(amplitude(medium.level + gain - lost), haze)
    mirror = medium.mirror * amplitude(gain - lost)
    noise = amplitude(look.noise + gain - gain[-1]) * complex_normal(rng, grid.shape)
    power = noise.real**2 + noise.imag**2
    for echo in echoes(grid, scatter, mirror, subject.looks, rng):
        power += (echo.real**2 + echo.imag**2) / np.float32(subject.looks)
    return np.asarray(np.sqrt(power))


def _contact(medium: Medium) -> Image:
    """Loss (dB) of the lines whose piece of the probe touches badly or looks through gas, most at the sides."""
    aside = (medium.grid.angle / medium.grid.sector.half_angle) ** 2
    streaks = np.clip(medium.texture(1e6, 12) - 0.8, 0, 2)
    return np.asarray(medium.rng.uniform(0, 12) * aside**1.5 + medium.rng.uniform(0, 8) * streaks)


def _sliders(grid: Grid, rng: np.random.Generator) -> Image:
    """Time-gain (dB) as the operator set it, (D, 1)."""
    sliders = rng.normal(0, 2.0, size=(5, 1)).astype(np.float32)
    return np.asarray(cv2.resize(sliders, (1, grid.shape[0]), interpolation=cv2.INTER_CUBIC))
