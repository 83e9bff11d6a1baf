"""The exact GELU and its slope within Triton programs."""

import triton
import triton.language as tl


@triton.jit
def normal(z):
    """The standard normal's upper tail beyond |z|, and its density at z.

    One exponential serves both: the tail by Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8. A squared rsqrt
    and exp2 are single instructions where a division and exp are several.
    """
    root = tl.rsqrt(1.0 + 0.2316418882 * tl.abs(z))
    t = root * root
    density = tl.exp2(z * (z * -0.7213475204444817) - 1.3257480647361593)  # exp(-z^2 / 2) / sqrt(2 pi)
    tail = (((1.330274429 * t - 1.821255978) * t + 1.781477937) * t - 0.356563782) * t + 0.31938153
    return tail * t * density, density


@triton.jit
def gelu_of(z):
    """Z Phi(z), Phi the standard normal's distribution."""
    tail, _ = normal(z)
    return tl.maximum(z, 0.0) - tl.abs(z) * tail


@triton.jit
def gelu_and_slope(z):
    """`gelu_of` and its derivative, Phi(z) + z phi(z), for one exponential."""
    tail, density = normal(z)
    phi = tl.where(z < 0, tail, 1.0 - tail)
    return z * phi, phi + z * density


@triton.jit
def gelu_slope(z):
    """The derivative of `gelu_of`."""
    _, slope = gelu_and_slope(z)
    return slope
