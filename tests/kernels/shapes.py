"""Random arguments for all kernels, and the comparison of a kernel with its plain twin in float64."""

import contextlib
import random

import torch

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the relative norm of a difference
SMALLEST = 0.03  # root mean square of numbers that are not what is left of a cancellation
FEW, UPSTREAMS = 16, 8  # numbers whose norm an accident makes small; random upstreams that say how large it usually is
LAYOUTS = ("channels_last", "contiguous", "sliced")
CORNERS = [
    (1, 1, 1, 1),
    (2, 3, 1, 1),
    (1, 1, 9, 14),
    (2, 16, 1, 37),
    (2, 16, 37, 1),
    (1, 65, 2, 3),
    (1, 80, 7, 5),
]


def random_shapes(count, seed, elements=2**22):
    """`count` shapes (B, C, H, W) of at most `elements` elements: corner cases first, then odd and even sizes."""
    draw = random.Random(seed)
    shapes = [shape for shape in CORNERS if _size(shape) <= elements][:count]
    while len(shapes) < count:
        channels = draw.choice([1, 3, 16, 32, 64, 80, 160, draw.randint(1, 300)])
        shape = (draw.randint(1, 5), channels, _length(draw), _length(draw))
        if _size(shape) <= elements:
            shapes.append(shape)
    return shapes


def _length(draw):
    """1 to 300, small ones as often as large ones."""
    return round(300 ** draw.random())


def _size(shape):
    b, c, h, w = shape
    return b * c * h * w


def random_map(shape, seed, dtype=torch.float32, device="cpu", layout="channels_last"):
    """A normal map (B, C, H, W); "sliced" is a view whose pixels and channels lie apart in memory."""
    b, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    if layout == "sliced":
        return torch.randn(b, h, 2 * c, w + 3, generator=generator).to(device, dtype)[:, :, ::2, 1:-2].transpose(1, 2)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    return x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


@contextlib.contextmanager
def poisoned():
    """Memory that nobody wrote is NaN: what a kernel leaves out shows in its result."""
    before, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def errors(kernel, twin, arguments):
    """Relative norms of kernel - twin: of the result, then of the gradient of each argument.

    The twin gets the same numbers in float64. The result's gradient is random, in the result's dtype and, every other
    time, not channels last. NaN where the kernel's result has another shape or left memory unwritten.
    """
    ours = [t.detach().requires_grad_() for t in arguments]
    exact = [t.detach().double().requires_grad_() for t in arguments]
    truth = twin(*exact)
    with poisoned():
        result = kernel(*ours)
        upstream = torch.randn(truth.shape, generator=torch.Generator().manual_seed(7)).to(result)
        if truth.ndim == 4 and truth.shape[0] % 2:
            upstream = upstream.contiguous(memory_format=torch.channels_last)
        gradients = torch.autograd.grad(result, ours, upstream)
    expected = torch.autograd.grad(truth, exact, upstream.double(), retain_graph=True)
    usual = [usual_norm(truth, *pair) for pair in zip(exact, expected, strict=True)]
    pairs = zip((result, *gradients), (truth, *expected), (None, *usual), strict=True)
    return [relative_norm(*pair) for pair in pairs]


def usual_norm(truth, argument, gradient):
    """Root mean square norm of an argument's gradient over `gradient`'s upstream and others; None of many numbers.

    The bias of a map of one channel has one number as its gradient, a sum over all pixels: for an unlucky upstream it
    is a hundredth of what it usually is. The rounding of its summands (bf16 gradients of the map) does not shrink.
    """
    if argument.numel() > FEW:
        return None
    generator, squares = torch.Generator().manual_seed(8), [gradient.square().sum()]
    for _ in range(UPSTREAMS):
        upstream = torch.randn(truth.shape, generator=generator).to(truth)
        squares.append(torch.autograd.grad(truth, argument, upstream, retain_graph=True)[0].square().sum())
    return torch.stack(squares).mean().sqrt()


def relative_norm(ours, truth, usual=None):
    """Of the difference, in units of truth's norm, or of its `usual` one. Arguments are of order one: a truth that is
    far smaller is what is left of a cancellation (GELU's slope near its zero, a sum of two pixels), and float32 has
    rounded the numbers that cancelled.
    """
    if ours.shape != truth.shape:
        return float("nan")
    size = truth.norm() if usual is None else usual
    return ((ours.double() - truth).norm() / size.clamp_min(SMALLEST * truth.numel() ** 0.5)).item()


def assert_like_twin(kernel, twin, arguments, tolerance):
    """Value and gradients agree within `tolerance`; NaN never does."""
    found = errors(kernel, twin, arguments)
    shapes = [tuple(t.shape) for t in arguments]
    assert all(error <= tolerance for error in found), f"{found} (result, then gradients) for {shapes}"
