"""From a medium of scatterers to a B-mode picture: point spread function, envelope, log compression.

Speckle is fully developed: each resolution cell sums many scatterers of random phase, so that the echo is circular
complex Gaussian and its envelope Rayleigh distributed (Goodman 1976; Wagner et al. 1983, "Statistics of speckle in
ultrasound B-scans"). Summing so many scatterers gives a Gaussian by the central limit theorem, hence the scatterers of
a cell are drawn as one complex normal number.
"""

from collections.abc import Iterator
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from famseg.data.phantom.scan import Grid, Image

Complex = NDArray[np.complex64]
SMALLEST_SIGMA = 0.6  # samples; a narrower Gaussian is none on the grid


def amplitude(level: Image) -> Image:
    """Amplitude of levels in dB."""
    return cast(Image, np.exp(level * np.float32(np.log(10) / 20)))


def complex_normal(rng: np.random.Generator, shape: tuple[int, int]) -> Complex:
    """Circular complex normal numbers of mean power 1."""
    parts = rng.standard_normal((*shape, 2), dtype=np.float32)
    return cast(Complex, parts.view(np.complex64)[..., 0] * np.float32(np.sqrt(0.5)))


def echoes(grid: Grid, scatter: Image, mirror: Image, looks: int, rng: np.random.Generator) -> Iterator[Complex]:
    """Complex echoes (D, L), `looks` of them with independent scatterers in the same medium.

    Args:
        grid: where the samples lie and which pulse was sent.
        scatter: amplitude of the speckle that a homogeneous medium of this strength shows (root mean square).
        mirror: amplitude of smooth reflectors, which keep their phase.
        looks: how many.
        rng: draws the scatterers.
    """
    axial = max(grid.pulse.axial / grid.step, SMALLEST_SIGMA)
    lateral_mm = grid.pulse.lateral_at(grid.radius - grid.sector.probe)
    lateral = np.maximum(lateral_mm / (grid.radius * np.float32(grid.turn)), np.float32(SMALLEST_SIGMA))  # (D, 1)
    lines = fft.next_fast_len(grid.shape[1] + 4 * int(np.ceil(lateral.max())))
    frequency = 2 * np.pi * fft.fftfreq(lines)
    transfer = np.exp(-0.5 * (lateral * frequency) ** 2).astype(np.float32)  # (D, lines)
    kernel = np.asarray(cv2.getGaussianKernel(2 * int(np.ceil(3 * axial)) + 1, axial, cv2.CV_32F), np.float32)
    power = np.square(kernel).sum() * np.square(transfer).mean(axis=1, keepdims=True)  # of filtered unit noise
    weight = scatter / np.sqrt(power)
    for _ in range(looks):
        yield _blur(weight * complex_normal(rng, grid.shape) + mirror, kernel, transfer)


def _blur(field: Complex, kernel: Image, transfer: Image) -> Complex:
    """Axial convolution with `kernel` (n, 1), lateral multiplication with `transfer` (D, lines) row by row."""
    lines, left = field.shape[1], (transfer.shape[1] - field.shape[1]) // 2
    parts = field.view(np.float32).reshape(*field.shape, 2)
    blurred = cv2.sepFilter2D(parts, -1, np.ones((1, 1), np.float32), kernel, borderType=cv2.BORDER_REFLECT)
    right = transfer.shape[1] - lines - left  # the discrete transform is periodic: keep both sides apart
    padded = np.asarray(cv2.copyMakeBorder(blurred, 0, 0, left, right, cv2.BORDER_REFLECT), np.float32)
    spectrum = fft.fft(padded.view(np.complex64)[..., 0], axis=1)
    return cast(Complex, fft.ifft(spectrum * transfer, axis=1)[:, left : left + lines])


def compress(envelope: Image, dynamic_range: float, gamma: float) -> Image:
    """Grey values 0 to 255 of an envelope whose white is 1: logarithm, then the display's curve."""
    level = 20 * np.log10(np.maximum(envelope, np.float32(1e-6)))
    return cast(Image, 255 * np.clip(1 + level / dynamic_range, 0, 1) ** np.float32(gamma))
