"""The exact GELU and its slope within Triton programs."""

import triton
import triton.language as tl


@triton.jit
def normal(z):
    """The standard normal's upper tail beyond |z|, and its density at z.

    One exponential serves both: erfc by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7. A squared rsqrt and
    exp2 are single instructions where a division and exp are several.
    """
    root = tl.rsqrt(1.0 + 0.2316418882 * tl.abs(z))
    t = root * root
    e = tl.exp2(z * (z * -0.7213475204444817))  # exp(-z^2 / 2)
    tail = (((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796
    return tail * t * e, 0.3989422804014327 * e


@triton.jit
def gelu_of(z):
    """Z Phi(z), Phi the standard normal's distribution."""
    tail, _ = normal(z)
    return tl.maximum(z, 0.0) - tl.abs(z) * tail


@triton.jit
def gelu_and_slope(z):
    """`gelu_of` and `gelu_slope` for one exponential."""
    tail, density = normal(z)
    return tl.maximum(z, 0.0) - tl.abs(z) * tail, tl.where(z < 0, tail, 1.0 - tail) + z * density


@triton.jit
def gelu_slope(z):
    """Phi(z) + z phi(z), the derivative of `gelu_of`."""
    tail, density = normal(z)
    return tl.where(z < 0, tail, 1.0 - tail) + z * density
