"""From a medium of scatterers to a B-mode picture: point spread function, envelope, log compression.

Speckle is fully developed: each resolution cell sums many scatterers of random phase, so that the echo is circular
complex Gaussian and its envelope Rayleigh distributed (Goodman 1976; Wagner et al. 1983, "Statistics of speckle in
ultrasound B-scans"). Summing so many scatterers gives a Gaussian by the central limit theorem, hence the scatterers of
a cell are drawn as one complex normal number.
"""

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


def echo(grid: Grid, scatter: Image, mirror: Image, rng: np.random.Generator) -> Complex:
    """Complex echo (D, L) before any gain.

    Args:
        grid: where the samples lie and which pulse was sent.
        scatter: amplitude of the speckle that a homogeneous medium of this strength shows (rms).
        mirror: amplitude of smooth reflectors, which keep their phase.
        rng: the source of the scatterers.
    """
    axial = max(grid.pulse.axial / grid.step, SMALLEST_SIGMA)
    lateral_mm = grid.pulse.lateral_at(grid.radius - grid.sector.probe)
    lateral = np.maximum(lateral_mm / (grid.radius * grid.turn), SMALLEST_SIGMA)  # (D, 1) samples
    lines = fft.next_fast_len(grid.shape[1] + 4 * int(np.ceil(lateral.max())))
    frequency = 2 * np.pi * fft.fftfreq(lines).astype(np.float32)
    transfer = np.exp(-0.5 * (lateral * frequency) ** 2)  # (D, lines)
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * axial)) + 1, axial, cv2.CV_32F)
    power = (kernel**2).sum() * (transfer**2).mean(axis=1, keepdims=True)  # of unit noise after both filters
    noise = complex_normal(rng, grid.shape) / np.sqrt(power, dtype=np.float32)
    return _blur(scatter * noise + mirror, kernel, transfer.astype(np.float32))


def _blur(field: Complex, kernel: Image, transfer: Image) -> Complex:
    """Axial convolution with `kernel` (n, 1), lateral multiplication with `transfer` (D, lines) row by row."""
    lines, left = field.shape[1], (transfer.shape[1] - field.shape[1]) // 2
    parts = np.ascontiguousarray(field.astype(np.complex64)).view(np.float32).reshape(*field.shape, 2)
    parts = cv2.sepFilter2D(parts, -1, np.ones((1, 1), np.float32), kernel, borderType=cv2.BORDER_REFLECT)
    right = transfer.shape[1] - lines - left  # the discrete transform is periodic: keep both sides apart
    parts = cv2.copyMakeBorder(parts, 0, 0, left, right, cv2.BORDER_REFLECT)
    spectrum = fft.fft(np.ascontiguousarray(parts).view(np.complex64)[..., 0], axis=1)
    return cast(Complex, fft.ifft(spectrum * transfer, axis=1)[:, left : left + lines])


def compress(envelope: Image, dynamic_range: float, gamma: float) -> Image:
    """Grey values 0 to 255 of an envelope whose white is 1: logarithm, then the display's curve."""
    level = 20 * np.log10(np.maximum(envelope, np.float32(1e-6)))
    return cast(Image, 255 * np.clip(1 + level / dynamic_range, 0, 1) ** np.float32(gamma))
