"""How hard the phantom's images are to segment: values, not code."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difficulty:
    """What the three levels differ in. Echo levels are in dB below white.

    Attributes:
        bone: echo level of bone hit at a right angle.
        dropout: exponent of the cosine between beam and bone: how fast a wall fades towards its sides.
        noise: level of the receiver's noise at the lower arc; time-gain lowers it towards the probe.
        haze: level of the reverberation haze in the near field and in the fluid.
        distractors: fewest and most bright structures that are neither head nor femur.
        tilt: standard deviation of an object's direction against the horizontal, in degrees.
        fill: share of the picture that an object spans, least and most.
        femur_px: least width of a femur in pixels.
        irregular: deviation of the skull from its ellipse, relative to the short semi-axis.
        cut: how far a head may leave the picture, relative to its size.
        screen: probability of the blackened corners and grey bar of stored screens.
    """

    bone: float
    dropout: float
    noise: float
    haze: float
    distractors: tuple[int, int]
    tilt: float
    fill: tuple[float, float]
    femur_px: float
    irregular: float
    cut: float
    screen: float


DIFFICULTIES = {
    "easy": Difficulty(2.0, 1.6, -58, -60, (0, 2), 12, (0.6, 0.9), 4.0, 0.0, 0.0, 0.0),
    "normal": Difficulty(0.0, 2.5, -52, -55, (1, 4), 18, (0.5, 0.9), 3.0, 0.012, 0.0, 0.5),
    "hard": Difficulty(-4.0, 3.3, -44, -48, (3, 7), 30, (0.4, 0.95), 2.0, 0.02, 0.1, 0.7),
}
