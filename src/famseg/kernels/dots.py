"""Matrix products inside Triton programs, with float32 sums.

`narrow` operands are bf16, for maps in bf16; else operands are float32 and so is the arithmetic, without tf32.
"""

import os

import triton
import triton.language as tl

# Triton's interpreter multiplies bf16 numbers as if their bits were integers: there they are rounded, then widened.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
FEW = tl.constexpr(16)  # columns of a factor up to which one product with its `halves` is faster than two


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


@triton.constexpr_function
def width(columns, narrow):
    """Of `halves`."""
    return 2 * columns if narrow else columns


@triton.jit
def halves(x, NARROW: tl.constexpr):
    """A factor (n, m) as the operand of a product: where that is bf16, two numbers for each, side by side (n, 2 m).

    Their sum has 16 bits of the factor's mantissa. One product with both takes half the instructions of two.
    """
    if NARROW:
        x = tl.reshape(tl.join(rounded(x, NARROW), rounded(remainder(x), NARROW)), (x.shape[0], 2 * x.shape[1]))
    return x


@triton.jit
def whole(x, NARROW: tl.constexpr):
    """A product with `halves` (n, 2 m) -> what the factor itself would have given, (n, m)."""
    if NARROW:
        x = tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)), 2)
    return x


@triton.jit
def square_of_halves(x, NARROW: tl.constexpr):
    """The product x^T x of a factor's `halves`, still to be made whole along both axes."""
    return product(tl.trans(x), x, NARROW)


@triton.jit
def whole_square(x, NARROW: tl.constexpr):
    """Products of `square_of_halves`, or their sum (2 m, 2 m) -> those of the factor itself, (m, m), symmetric."""
    return whole(tl.trans(whole(x, NARROW)), NARROW)


@triton.jit
def product_of_factor(a, b, NARROW: tl.constexpr):
    """The matrix product a b with b to 16 bits of mantissa; a is rounded, or was loaded as bf16."""
    if NARROW and b.shape[1] > FEW:
        return product(a, b, NARROW) + product(a, remainder(b), NARROW)
    else:
        return whole(product(a, halves(b, NARROW), NARROW), NARROW)


@triton.jit
def twice(x, NARROW: tl.constexpr):
    """Each row (n, m) for both halves of what is multiplied with it, (2 n, m)."""
    if NARROW:
        x = tl.reshape(tl.permute(tl.join(x, x), (0, 2, 1)), (2 * x.shape[0], x.shape[1]))
    return x


@triton.jit
def product_of_factors(a, b, NARROW: tl.constexpr):
    """The matrix product a b with both to 16 bits of mantissa."""
    if NARROW and a.shape[1] > FEW:
        return product_of_factor(a, b, NARROW) + product(remainder(a), b, NARROW)
    else:
        return whole(product(halves(a, NARROW), twice(halves(b, NARROW), NARROW), NARROW), NARROW)


@triton.jit
def square_of_factor(x, NARROW: tl.constexpr):
    """The matrix product x^T x of a factor (n, m), n above FEW, to 16 bits of mantissa."""
    if NARROW and x.shape[1] > FEW:
        return product_of_factors(tl.trans(x), x, NARROW)
    else:
        return whole_square(square_of_halves(halves(x, NARROW), NARROW), NARROW)
