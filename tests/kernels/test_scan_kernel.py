"""The scan on maps: the kernel against the recurrence in float64, and Mamba2D on it against its plain form."""

import random

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from shapes import LAYOUTS, TOLERANCE, errors, random_map, relative_norm

from famseg.errors import UserError
from famseg.kernels import scan, scan_gradients, scan_programs
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.ssd import runs_on_maps, ssd_chunked, ssd_reference

DIRECTIONS = {1: (1, 1), 2: (1, 2), 4: (2, 2)}  # directions -> orders, ways
GRADIENTS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # tolerances; a parameter's gradient is a sum that cancels


@pytest.fixture
def short_chunks(monkeypatch):
    """Several chunks on a map that Triton's interpreter scans in seconds."""
    monkeypatch.setattr(scan, "CHUNK", 16)


def arguments(shape, directions=4, dtype=torch.float32, device="cpu", layout="channels_last", seed=0):
    """`shape` is (batch, height, width, heads, head width, states)."""
    batch, height, width, heads, head_width, states = shape
    mixed = random_map((batch, heads * head_width + 2 * states, height, width), seed, dtype, device, layout)
    dt = random_map((batch, directions * heads, height, width), seed + 1, dtype, device, layout)
    generator = torch.Generator().manual_seed(seed + 2)
    bias = -6 + 4 * torch.rand(directions * heads, generator=generator)
    A_log = (1 + 15 * torch.rand(directions * heads, generator=generator)).log()
    skip = torch.randn(directions * heads, generator=generator)
    maps = mixed.permute(0, 2, 3, 1), dt.permute(0, 2, 3, 1)
    return *maps, bias.to(device), A_log.to(device), skip.to(device)


def kernel(directions, states):
    orders, ways = DIRECTIONS[directions]
    return lambda mixed, *args: scan.scan_map([mixed] * orders, *args, ways, states)


def twin(directions, states, form=ssd_reference):
    orders, ways = DIRECTIONS[directions]

    def in_orders(t):
        return torch.stack([t.flatten(1, 2), t.transpose(1, 2).flatten(1, 2)][:orders])

    def on_sequences(mixed, dt, bias, A_log, skip):
        heads, (height, width) = len(skip) // directions, mixed.shape[1:3]
        x, B, C = in_orders(mixed).split([mixed.shape[3] - 2 * states, states, states], dim=-1)
        x = x.unflatten(-1, (heads, -1))
        dt = in_orders(F.softplus(dt + bias)).unflatten(-1, (orders, ways, heads))
        dt = torch.stack([dt[i, :, :, i] for i in range(orders)])
        y = form(x, dt, -A_log.exp().view(orders, ways, heads), B, C)
        skips = torch.stack([skip.view(-1, heads).sum(0), torch.zeros_like(skip[:heads])])[:orders]
        y = (y + x * skips.view(orders, 1, 1, heads, 1)).flatten(-2)
        rows, columns = y[0].unflatten(1, (height, width)), y[1:].unflatten(2, (width, height)).transpose(2, 3)
        return torch.cat([rows[None], columns])

    return on_sequences


def assert_close(shape, directions, args, form=ssd_reference):
    value, *gradients = errors(kernel(directions, shape[-1]), twin(directions, shape[-1], form), args)
    dtype = args[0].dtype
    assert value <= TOLERANCE[dtype], f"value {value} for {shape}, {directions} directions"
    assert all(g <= GRADIENTS[dtype] for g in gradients), f"gradients {gradients} for {shape}, {directions} directions"


@pytest.mark.parametrize(
    ("shape", "directions", "dtype", "layout"),
    [
        ((1, 1, 1, 1, 16, 16), 4, torch.float32, "channels_last"),
        ((1, 5, 7, 1, 12, 5), 4, torch.float32, "contiguous"),
        ((2, 3, 6, 2, 16, 16), 2, torch.float32, "sliced"),
        ((1, 37, 1, 1, 16, 16), 1, torch.float32, "channels_last"),
        ((1, 1, 33, 1, 32, 16), 4, torch.bfloat16, "sliced"),
        ((1, 4, 8, 3, 16, 16), 2, torch.bfloat16, "channels_last"),
    ],
)
@pytest.mark.usefixtures("short_chunks")
def test_like_the_recurrence(shape, directions, dtype, layout, device):
    assert_close(shape, directions, arguments(shape, directions, dtype, device, layout))


@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.usefixtures("short_chunks")
def test_parameters_gradients_in_half_precision(directions, device):
    """Within one chunk nothing but G W is rounded on the way to them, and that to 16 bits."""
    shape = 1, 3, 5, 1, 16, 16
    args = arguments(shape, directions, torch.bfloat16, device)
    _, _, _, *of_parameters = errors(kernel(directions, 16), twin(directions, 16), args)
    assert max(of_parameters) < 1e-4


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("gradient", [False, True])
def test_states_pass_through_many_chunks(way, gradient, device):
    sizes = scan.Sizes(batch=2, height=1, width=37 * scan.CHUNK, orders=1, ways=2, heads=1, head_width=3, states=5)
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(sizes.shape_of_states, generator=generator)
    totals = -torch.rand(own.shape[:4], generator=generator)
    expected, state = torch.zeros_like(own[way]), torch.zeros_like(own[way, :, 0])
    chunks = range(own.shape[2])
    for i in reversed(chunks) if way != gradient else chunks:
        expected[:, i] = state
        state = totals[way, :, i, :, None, None].exp() * state + own[way, :, i]
    passed = own.to(device)
    scan._pass(passed, totals.exp().to(device), sizes, gradient)
    torch.testing.assert_close(passed[way].cpu(), expected)


@pytest.mark.usefixtures("short_chunks")
def test_strong_decay_and_saturated_steps(device):
    """Log decays add up to 6000, where float32 numbers lie 5e-4 apart: differences of sums err by as much, relatively.

    In what order a GPU adds is its own affair; nan, overflow and a wrong mask would err by 1.
    """
    shape = 1, 3, 7, 1, 16, 16
    mixed, dt, bias, A_log, skip = arguments(shape, 2, device=device)
    dt = dt.clone()
    dt[:, 1] = 60.0
    dt[:, 2, :3] = -120.0  # softplus is 0 in float32
    value, *gradients = errors(kernel(2, 16), twin(2, 16), (mixed, dt, bias, A_log, skip))
    assert value < 2e-3
    assert max(gradients) < 5e-3


def test_softplus_keeps_the_digits_of_small_steps(device):
    @triton.jit  # here, where the interpreter is chosen
    def softplus_of(v, result, COUNT: tl.constexpr):
        i = tl.arange(0, COUNT)
        tl.store(result + i, scan_programs.softplus(tl.load(v + i)))

    v = torch.linspace(-30, 30, 256, device=device)
    found = torch.empty_like(v)
    softplus_of[(1,)](v, found, COUNT=256)
    exact = F.softplus(v.double(), threshold=100)
    assert ((found.double() - exact) / exact).abs().max() < 2e-6


def test_the_slope_keeps_the_digits_of_small_steps(device):
    """As `chunk_gradients` has it: from what softplus gave."""

    @triton.jit  # here, where the interpreter is chosen
    def slope_of(step, result, COUNT: tl.constexpr):
        i = tl.arange(0, COUNT)
        tl.store(result + i, scan_gradients.sigmoid_of(tl.load(step + i)))

    step = torch.cat([torch.zeros(1), torch.linspace(-60, 4, 255).exp()]).to(device)  # 1e-26 to 55
    found = torch.empty_like(step)
    slope_of[(1,)](step, found, COUNT=256)
    exact = -torch.expm1(-step.double())
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=0)


@pytest.mark.usefixtures("short_chunks")
def test_the_same_bits_every_time_and_in_every_batch(device):
    shape = 2, 3, 6, 1, 16, 16
    args = [t.requires_grad_() for t in arguments(shape, 2, device=device)]

    def run(maps):
        y = kernel(2, 16)(*maps, *args[2:]).sum(0)
        return y, *torch.autograd.grad(y.square().sum(), maps)

    first, second, alone = run(args[:2]), run(args[:2]), run([t[:1] for t in args[:2]])
    for a, b, c in zip(first, second, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[:1], c)


@pytest.mark.usefixtures("short_chunks")
def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((1, 2, 5, 1, 16, 16), 4, device=device)]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    forward = [args[0]] * 2, *args[1:], 2, 16
    torch.library.opcheck(scan.scan, forward, test_utils=checks)
    y, *saved = (t.detach() for t in scan.scan(*forward))
    upstream = torch.randn(y.shape[1:], device=device).expand_as(y)
    args = [t.detach() for t in args]
    torch.library.opcheck(scan.scan_backward, (upstream, *args, *saved, 2, 2, 16), test_utils=checks[:2])


def layers(directions=4, **options):
    """The same layer on the kernel and in the plain form."""
    found = []
    for backend in ("triton", "chunked"):
        torch.manual_seed(0)
        found.append(Mamba2D(32, directions, head_width=16, backend=backend, **options))
    return found


@pytest.mark.parametrize(("directions", "expand"), [(2, 2), (4, 1)])
@pytest.mark.usefixtures("short_chunks")
def test_the_layer_is_the_same_on_the_kernel(directions, expand, device):
    x = random_map((1, 32, 3, 7), 0, device=device).requires_grad_()
    found = []
    for layer in layers(directions, expand=expand):
        y = layer.to(device)(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))])
    for ours, plain in zip(*found, strict=True):
        assert relative_norm(ours, plain.double()) < 1e-4


@pytest.mark.usefixtures("short_chunks")
def test_the_layer_in_half_precision(device, monkeypatch):
    """Skips of rows and columns that cancel must not leave behind what rounding the orders' results does to them."""
    monkeypatch.setattr("famseg.kernels.partials.WIDTH", 512)  # hundreds of programs take the interpreter seconds
    monkeypatch.setattr("famseg.kernels.partials.AT_ONCE", 16)
    x = random_map((1, 32, 5, 1), 0, device=device).requires_grad_()
    found = []
    for layer, half in zip(layers(), (True, False), strict=True):
        layer.D.data = 30 * torch.linspace(-1, 1, 4).sign().repeat_interleave(layer.heads)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            y = layer.to(device)(x)
        assert y.dtype == (torch.bfloat16 if half else torch.float32)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), (x, *layer.parameters()))])
    for ours, plain in zip(*found, strict=True):
        assert relative_norm(ours, plain.double()) < 7e-2


@pytest.mark.slow
@pytest.mark.usefixtures("short_chunks")
def test_a_compiled_layer_has_no_graph_break(device):
    """There the split and the map for two readers are plain views, and gradients are the same."""
    layer, found = layers()[0].to(device), []
    x = random_map((1, 32, 3, 5), 0, device=device).requires_grad_()
    for form in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        y = form(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))])
    for eager, compiled in zip(*found, strict=True):
        assert relative_norm(compiled, eager.double()) < 1e-5


def test_the_choice(device):
    x = torch.zeros(1, device=device)
    assert runs_on_maps("triton", x, 32, 16)
    assert runs_on_maps("auto", x, 32, 16) == (device.type == "cuda")
    assert not runs_on_maps("auto", x, 128, 16)
    assert not runs_on_maps("mamba_ssm", x, 32, 16)
    with pytest.raises(UserError, match=r"model\.head_width=128, model\.state_size=16"):
        runs_on_maps("triton", x, 128, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(240))
def test_random_shapes(seed, device):
    draw = random.Random(seed)
    height, width = (round(150 ** draw.random()) for _ in range(2))
    head_width, states = draw.choice([16, 32, 32, 8, 24, 64]), draw.choice([16, 16, 5, 32])
    heads = draw.choice([1, 2, 5, 8] if height * width < 5000 else [1, 2])
    shape = draw.randint(1, 3), height, width, heads, head_width, states
    directions, dtype = draw.choice([1, 2, 4, 4]), draw.choice([torch.float32, torch.bfloat16, torch.bfloat16])
    args = arguments(shape, directions, dtype, device, draw.choice(LAYOUTS), seed)
    assert_close(shape, directions, args, ssd_chunked)


@pytest.mark.gpu
def test_compiled_and_captured(device):
    """torch.compile without a graph break, and a CUDA graph of forward and backward, give what eager gives."""
    layer = layers()[0].to(device)
    x = random_map((2, 32, 24, 40), 0, device=device).requires_grad_()
    inputs = x, *layer.parameters()

    def run(function):
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            y = function(x)
        gradients = torch.autograd.grad(y.float().square().sum(), inputs)
        return y.detach(), *gradients  # a graph that lives on ties the leaves to the stream that it was made on

    eager, compiled = run(layer), run(torch.compile(layer, fullgraph=True))
    for ours, theirs in zip(compiled, eager, strict=True):
        assert relative_norm(ours, theirs.double()) < 3e-2
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(layer)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(layer)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))
