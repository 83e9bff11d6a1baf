"""A scene as a grey picture: paint the medium, send the pulse, compensate, compress, convert."""

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.data.phantom import anatomy
from famseg.data.phantom.difficulty import Difficulty
from famseg.data.phantom.geometry import Pose
from famseg.data.phantom.medium import Medium
from famseg.data.phantom.scan import Grid, Image
from famseg.data.phantom.scene import Scene, Subject
from famseg.data.phantom.speckle import amplitude, complex_normal, compress, echo


def render(scene: Scene, subject: Subject, look: Difficulty, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The B-mode picture (H, W) of a scene, uint8."""
    grid = Grid(scene.sector, scene.pulse, scene.spacing)
    medium = paint(scene, grid, look, rng)
    received = _receive(medium, subject, look, rng)
    grey = compress(received, subject.dynamic_range, subject.gamma)
    picture = grid.to_picture(grey, scene.height, scene.width)
    if rng.random() < look.screen:
        _screen(picture, rng)
    return np.asarray(np.rint(picture).astype(np.uint8))


def paint(scene: Scene, grid: Grid, look: Difficulty, rng: np.random.Generator) -> Medium:
    """Everything that the sound meets, from the back to the front."""
    medium = Medium(grid, anatomy.TISSUE, anatomy.TISSUE_LOSS, rng)
    anatomy.tissue(medium)
    width, height = scene.width * scene.spacing, scene.height * scene.spacing
    main = scene.head or scene.femur
    pose = main.pose if main else Pose(width / 2, height / 2, 0.0)
    reach = max(main.extent()) if main else 0.3 * width
    if rng.random() < 0.75:
        aside = rng.uniform(-0.6, 0.6, size=2) * reach
        a, b = rng.uniform(0.9, 1.6, size=2) * reach
        centre = Pose(pose.x + aside[0], pose.z + 0.5 * aside[1], rng.uniform(-0.5, 0.5))
        anatomy.fluid(medium, centre, a, 0.8 * b)
    for _ in range(rng.integers(look.distractors[0], look.distractors[1] + 1)):
        place = Pose(rng.uniform(0, width), rng.uniform(0.1, 1) * height, rng.normal(0, 0.5))
        size = rng.uniform(0.08, 0.25) * width
        anatomy.distractor(medium, place, size, int(rng.integers(5)), look)
    if scene.femur:
        anatomy.femur(medium, scene.femur, look)
    if scene.head:
        anatomy.head(medium, scene.head, look)
    return medium


def _receive(medium: Medium, subject: Subject, look: Difficulty, rng: np.random.Generator) -> Image:
    """Envelope after attenuation, time-gain compensation and receiver noise."""
    grid = medium.grid
    lost = np.cumsum(medium.loss, axis=0) * np.float32(grid.step)  # dB
    depth = grid.radius - grid.radius[0]
    sliders = cv2.resize(
        rng.normal(0, 1.5, (5, 1)).astype(np.float32), (1, grid.shape[0]), interpolation=cv2.INTER_CUBIC
    )
    gain = subject.gain + np.float32(rng.uniform(0.7, 0.9) * 0.3) * depth + sliders  # what the operator set
    path = amplitude(gain - lost)
    signal = echo(grid, amplitude(medium.level) * path, medium.mirror * path, rng)
    signal = signal + amplitude(look.noise + gain) * complex_normal(rng, grid.shape)
    return np.abs(signal)


def _screen(picture: Image, rng: np.random.Generator) -> None:
    """What stored screens show besides the sector: a grey bar, corners blackened for privacy."""
    height, width = picture.shape
    bar = np.linspace(255, 0, max(height * 3 // 10, 2))
    picture[height // 22 : height // 22 + len(bar), : max(width // 70, 1)] = bar[:, None]
    tall, wide = (rng.uniform(0.06, 0.2, size=2) * [height, width * 1.2]).astype(int)
    picture[height - tall - height // 30 : height - height // 30, width - wide :] = 0
    if rng.random() < 0.4:
        picture[:tall, width - wide // 2 :] = 0
