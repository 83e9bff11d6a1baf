"""Matrix products inside Triton programs, with float32 sums.

`narrow` operands are bf16, for maps in bf16; else operands are float32 and so is the arithmetic, without tf32.
"""

import os

import triton
import triton.language as tl

# Triton's interpreter multiplies bf16 numbers as if their bits were integers: there they are rounded, then widened.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def operand(x, like):
    """The operand of a product, in the dtype of the map `like`."""
    x = x.to(like.dtype.element_ty)
    return x.to(tl.float32) if INTERPRETED else x


@triton.jit
def rounded(x, NARROW: tl.constexpr):
    """The operand of a product."""
    if NARROW:
        x = x.to(tl.bfloat16)
    if INTERPRETED or not NARROW:
        x = x.to(tl.float32)
    return x


@triton.jit
def product(a, b, NARROW: tl.constexpr):
    """The matrix product a b."""
    return tl.dot(rounded(a, NARROW), rounded(b, NARROW), input_precision="ieee")


@triton.jit
def remainder(x):
    """What rounding to bf16 leaves out."""
    return x - x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def product_of_factor(a, b, NARROW: tl.constexpr):
    """The matrix product a b with b to 16 bits of mantissa, in two products; a is rounded, or was loaded as bf16."""
    result = product(a, b, NARROW)
    if NARROW:
        result += product(a, remainder(b), NARROW)
    return result


@triton.jit
def product_of_factors(a, b, NARROW: tl.constexpr):
    """The matrix product a b with both to 16 bits of mantissa, in three products."""
    result = product_of_factor(a, b, NARROW)
    if NARROW:
        result += product(remainder(a), b, NARROW)
    return result
