import pytest
import torch

from famseg.errors import UserError
from famseg.layers.ssd import ssd, ssd_chunked, ssd_reference

LENGTHS = [1, 5, 31, 32, 33, 97]
DIRECTIONS = {1: (1, 1), 2: (1, 2), 4: (2, 2)}  # directions -> orders, ways


def arguments(length, directions=4, batch=2, heads=3, width=4, states=5, dtype=torch.float64, strong=False):
    orders, ways = DIRECTIONS[directions]
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(orders, batch, length, heads, width)
    dt = 0.1 * torch.rand(orders, batch, length, ways, heads, generator=generator, dtype=torch.float64)
    A = -1 - 15 * torch.rand(orders, ways, heads, generator=generator, dtype=torch.float64)
    B, C = normal(orders, batch, length, states), normal(orders, batch, length, states)
    return tuple(t.to(dtype) for t in (x, dt * (100 if strong else 1), A, B, C))


def loops(x, dt, A, B, C):
    """Mamba-2's recurrence on single numbers, one direction, head and channel at a time."""
    y = torch.zeros_like(x)
    orders, batch, length, ways, heads = dt.shape
    for o in range(orders):
        for b, w, h, p in torch.cartesian_prod(*(torch.arange(n) for n in (batch, ways, heads, x.shape[-1]))).tolist():
            state = [0.0] * B.shape[-1]
            for step in range(length):
                t = length - 1 - step if w else step
                decay, drive = torch.exp(dt[o, b, t, w, h] * A[o, w, h]), dt[o, b, t, w, h] * x[o, b, t, h, p]
                state = [decay * s + drive * B[o, b, t, n] for n, s in enumerate(state)]
                y[o, b, t, h, p] += sum(C[o, b, t, n] * s for n, s in enumerate(state))
    return y


def relative(ours, truth):
    return ((ours.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_both_forms_are_the_recurrence(directions):
    args = arguments(7, directions, batch=1, heads=2, width=2, states=2)
    truth = loops(*args)
    torch.testing.assert_close(ssd_reference(*args), truth)
    torch.testing.assert_close(ssd_chunked(*args, chunk=3), truth)


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_reference(length, directions):
    args = arguments(length, directions)
    torch.testing.assert_close(ssd_chunked(*args), ssd_reference(*args), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (3, 8)])
@pytest.mark.parametrize("length", [33, 700])
def test_float32_is_within_1e_5_and_its_gradients_within_1e_4(length, batch, heads):
    exact = [t.requires_grad_() for t in arguments(length, batch=batch, heads=heads)]
    single = [t.detach().float().requires_grad_() for t in exact]
    truth, ours = ssd_reference(*exact), ssd_chunked(*single)
    assert relative(ours, truth) < 1e-5
    weight = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad((truth * weight).sum(), exact)
    for mine, theirs in zip(torch.autograd.grad((ours * weight.float()).sum(), single), expected, strict=True):
        assert relative(mine, theirs) < 1e-4


def test_strong_decay_neither_overflows_nor_loses_gradients():
    args = [t.requires_grad_() for t in arguments(70, dtype=torch.float32, strong=True)]
    y = ssd_chunked(*args)
    assert relative(y.detach(), ssd_reference(*(t.detach().double() for t in args))) < 1e-5
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), args))


@pytest.mark.parametrize("way", [0, 1])
def test_a_way_sees_only_its_past(way):
    x, dt, A, B, C = arguments(40, directions=2)
    dt[:, :, :, 1 - way] = 0
    changed = x.clone()
    changed[:, :, 20] += 1
    moved = (ssd_chunked(changed, dt, A, B, C) - ssd_chunked(x, dt, A, B, C)).abs().amax((0, 1, 3, 4)) > 1e-12
    assert not moved[:20].any() if way == 0 else not moved[21:].any()
    assert moved[20]
    assert moved[21] if way == 0 else moved[19]


def test_autocast_leaves_the_scan_in_float32():
    args = arguments(33, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = ssd(*args, backend="chunked")
        half = ssd(args[0].bfloat16(), *args[1:], backend="chunked")
    assert torch.equal(ours, ssd(*args, backend="chunked"))
    assert half.dtype == torch.bfloat16


def test_one_interface():
    args = arguments(33)
    chunked, reference, auto = (ssd(*args, backend=name) for name in ("chunked", "reference", "auto"))
    torch.testing.assert_close(chunked, reference)
    assert torch.equal(auto, chunked)


def test_unknown_backend():
    with pytest.raises(UserError, match=r"model.kernels='cudnn'.*auto, reference, chunked, mamba_ssm"):
        ssd(*arguments(3), backend="cudnn")
