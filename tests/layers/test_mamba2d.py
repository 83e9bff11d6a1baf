import pytest
import torch
import torch.nn.functional as F

from famseg.errors import UserError
from famseg.layers.mamba2d import Mamba2D


def layer(directions=4, channels=8, **options):
    torch.manual_seed(0)
    return Mamba2D(channels, directions, head_width=4, state_size=3, **options).double()


def image(channels=8, height=4, width=5):
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def walk(pixels, x, dt, A, B, C):
    """One head along one path of pixels, from the recurrence."""
    y, state = torch.zeros_like(x), torch.zeros(x.shape[0], B.shape[1], x.shape[1], dtype=x.dtype)
    for i, j in pixels:
        step = dt[:, i, j, None, None]
        state = torch.exp(step * A) * state + step * B[:, :, i, j, None] * x[:, None, :, i, j]
        y[:, :, i, j] = (C[:, :, i, j, None] * state).sum(1)
    return y


def explicit(m, u):
    """The class docstring's equations, direction by direction and head by head."""
    height, width = u.shape[-2:]
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    paths = [rows, rows[::-1], columns, columns[::-1]]
    z, mixed, dt = m.in_proj(u).split(m.split, dim=1)
    x, B, C = F.silu(m.conv(mixed)).split([z.shape[1], 3, 3], dim=1)
    y = torch.zeros_like(x)
    for d in range(len(m.D) // m.heads):
        for h in range(m.heads):
            k, part = d * m.heads + h, slice(4 * h, 4 * h + 4)
            step = F.softplus(dt[:, k] + m.dt_bias[k])
            y[:, part] += walk(paths[d], x[:, part], step, -m.A_log[k].exp(), B, C) + m.D[k] * x[:, part]
    y = y * F.silu(z)
    normed = y / (y.square().mean(1, keepdim=True) + 1e-5).sqrt() * m.norm.weight.view(1, -1, 1, 1)
    return m.out_proj(normed)


@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_follows_its_equations(directions, backend):
    m, u = layer(directions, backend=backend), image()
    m.D.data.normal_()
    m.norm.weight.data.normal_()
    torch.testing.assert_close(m(u), explicit(m, u))


def test_expand_widens_the_inside():
    m, u = layer(expand=2), image()
    assert m.heads == 4
    torch.testing.assert_close(m(u), explicit(m, u))


def test_memory_format_changes_nothing():
    m, u = layer(), image()
    torch.testing.assert_close(m(u.to(memory_format=torch.channels_last)), m(u))


def test_time_steps_start_between_a_thousandth_and_a_tenth():
    dt = F.softplus(Mamba2D(64, head_width=1).dt_bias)
    assert dt.min() >= 0.9e-3
    assert dt.max() <= 0.11


def test_the_parameters_of_directions_are_vectors():
    m = layer()
    assert m.A_log.shape == m.D.shape == m.dt_bias.shape == (8,)  # one-dimensional: no weight decay by the usual rule


def test_head_width_must_divide_the_inner_width():
    with pytest.raises(UserError, match=r"model.head_width=32 does not divide the inner width 80"):
        Mamba2D(80)


def test_unknown_directions():
    with pytest.raises(UserError, match=r"model.directions=3 .*1, 2, 4"):
        Mamba2D(32, directions=3)
