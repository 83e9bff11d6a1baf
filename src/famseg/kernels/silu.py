"""SiLU and its slope within Triton programs."""

import triton
import triton.language as tl


@triton.jit
def silu_of(z):
    """Z s(z), s the logistic function."""
    return z * tl.sigmoid(z)


@triton.jit
def silu_slope(z):
    """The derivative of `silu_of`."""
    share = tl.sigmoid(z)
    return share * (1 + z * (1 - share))
