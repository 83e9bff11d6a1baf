"""Strip scans: the kernel against PyTorch's convolutions in float64, and the layers on kernels against themselves."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes, relative_norm

from famseg.kernels.lines import Walk
from famseg.kernels.merge import merge_scans
from famseg.kernels.strip import BOTH, COLUMNS, ROWS, strip_scans
from famseg.layers.strip import StripAttention, StripBlock


def kernel(directions):
    return lambda *arguments: strip_scans(*arguments, directions)


def twin(directions):
    def convolve(x, lines, bias):
        strips = lines.t().unflatten(1, (2 if directions == BOTH else 1, -1))
        half, y = strips.shape[-1] // 2, bias.view(1, -1, 1, 1)
        if directions != COLUMNS:
            y = y + F.conv2d(x, strips[:, None, :1], padding=(0, half), groups=x.shape[1])
        if directions != ROWS:
            y = y + F.conv2d(x, strips[:, None, -1, :, None], padding=(half, 0), groups=x.shape[1])
        return y

    return convolve


def arguments(shape, length, directions, seed, dtype=torch.float32, device="cpu", layout="channels_last"):
    x = random_map(shape, seed, dtype, device, layout)
    generator = torch.Generator().manual_seed(seed + 1)
    strips = 2 if directions == BOTH else 1
    lines = torch.randn(strips * length, shape[1], generator=generator) / length**0.5
    return x, lines.to(device), torch.randn(shape[1], generator=generator).to(device)


@pytest.mark.parametrize(
    ("shape", "length", "directions", "dtype", "layout"),
    [
        ((1, 1, 1, 1), 21, BOTH, torch.float32, "channels_last"),
        ((2, 3, 5, 9), 11, BOTH, torch.float32, "contiguous"),
        ((1, 40, 10, 3), 9, BOTH, torch.bfloat16, "sliced"),
        ((1, 3, 2, 11), 7, ROWS, torch.float32, "channels_last"),
        ((1, 3, 11, 2), 7, COLUMNS, torch.float32, "channels_last"),
        ((1, 3, 4, 5), 3, COLUMNS, torch.float32, "channels_last"),
    ],
)
def test_like_the_twin(shape, length, directions, dtype, layout, device):
    args = arguments(shape, length, directions, 0, dtype, device, layout)
    assert_like_twin(kernel(directions), twin(directions), args, TOLERANCE[dtype])


def test_several_tiles_of_a_program(device, monkeypatch):
    """The last ones cut off, across the lines and along them; runs shorter than the taps."""
    monkeypatch.setattr("famseg.kernels.lines.RUNS", (4,))
    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(f"famseg.kernels.strip.{name}", Walk(lines=2, step=2, programs=6, block_c=2))
    args = arguments((1, 3, 5, 7), 5, BOTH, 0, device=device)
    assert_like_twin(kernel(BOTH), twin(BOTH), args, TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("shape", "programs", "expected"),
    [
        ((16, 32, 128, 128), 528, (64, 512, 1)),  # one tile each, of half a line
        ((16, 32, 128, 128), 396, (32, 396, 1)),  # 3 short ones or 2, rather than 2 long ones or 1
        ((16, 160, 32, 32), 528, (64, 64, 5)),  # longer than the map
        ((1, 80, 3, 5), 528, (64, 1, 3)),
    ],
)
def test_share(shape, programs, expected):
    walk = Walk(lines=8, step=8, programs=programs)
    assert walk.share(torch.empty(shape, device="meta"), (False, True)) == expected


def test_the_same_bits_every_time(device):
    def run():
        args = [t.requires_grad_() for t in arguments((2, 4, 6, 5), 7, BOTH, 3, device=device)]
        return torch.autograd.grad(strip_scans(*args, BOTH).square().sum(), args)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((1, 3, 4, 5), 3, BOTH, 0, device=device)]
    torch.library.opcheck(strip_scans, (*args, BOTH), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(("channels", "lengths"), [(1, (1,)), (3, (3, 5)), (33, (7, 11, 21))])
def test_merged_scans_like_the_plain_ones(channels, lengths, device):
    """Taps, bias and all gradients; rows before columns, the map itself in the centre of the rows."""
    torch.manual_seed(0)
    layer = StripAttention(channels, lengths).to(device)
    scans = (*layer.rows, *layer.columns)
    parameters = [conv.weight for conv in scans] + [conv.bias for conv in scans]
    row, column, bias = layer.merged()
    expected = torch.cat((row.flatten(1), column.flatten(1)), 1).t(), bias
    found = merge_scans(parameters[: len(scans)], parameters[len(scans) :])
    upstream = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1)).to(device) for t in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    ours, theirs = (torch.autograd.grad(results, parameters, upstream) for results in (found, expected))
    for one, other, parameter in zip(ours, theirs, parameters, strict=True):
        torch.testing.assert_close(one, other)
        assert one.stride() == parameter.stride()


def test_merging_as_the_compiler_sees_it(device):
    scans = [torch.ones(3, 1, 1, k, device=device) for k in (3, 5)]
    weights, biases = scans + [w.transpose(2, 3) for w in scans], [torch.ones(3, device=device)] * 4
    torch.library.opcheck(merge_scans, (weights, biases), test_utils=("test_schema", "test_faketensor"))
    split = torch.ops.famseg.split_scans
    lines, bias = merge_scans(weights, biases)
    torch.library.opcheck(split, (lines, bias, weights, biases), test_utils=("test_schema", "test_faketensor"))


def on_both_backends(make, x):
    """Value, gradient of x and of all parameters, by kernels and plain."""
    found = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        layer, image = make(backend).to(x.device), x.detach().requires_grad_()
        y = layer(image)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), (image, *layer.parameters()))])
    return found


@pytest.mark.parametrize("scan", ["independent", "sequential"])
def test_attention_is_the_same_on_kernels(scan, device):
    x = random_map((1, 3, 6, 5), 0, device=device)
    kernels, plain = on_both_backends(lambda backend: StripAttention(3, (3, 5), scan, backend), x)
    for ours, theirs in zip(kernels, plain, strict=True):
        assert relative_norm(ours, theirs.double()) < 1e-5


@pytest.mark.slow
def test_block_is_the_same_on_kernels_and_keeps_autocast(device):
    x = random_map((2, 4, 4, 5), 0, device=device)
    with torch.autocast(device.type, torch.float16):  # the interpreter cannot multiply bf16 matrices
        kernels, plain = on_both_backends(lambda backend: StripBlock(4, 2, (3, 5), backend=backend), x)
    for ours, theirs in zip(kernels, plain, strict=True):
        assert ours.dtype == theirs.dtype
        assert relative_norm(ours, theirs.double()) < 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "directions"), [(21, BOTH), (11, ROWS), (9, COLUMNS)])
def test_random_shapes(length, directions, dtype):
    for seed, shape in enumerate(random_shapes(200, seed=length)):
        args = arguments(shape, length, directions, seed, dtype, "cuda", LAYOUTS[seed % 3])
        assert_like_twin(kernel(directions), twin(directions), args, TOLERANCE[dtype])


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    lines, bias = (t.cuda() for t in arguments((1, 64, 1, 1), 21, BOTH, 0)[1:])
    alone = x[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(strip_scans(x, lines, bias, BOTH)[-1:], strip_scans(alone, lines, bias, BOTH))
    dx = [torch.ops.famseg.strip_scans_backward(t, t, lines, BOTH)[0][-1:] for t in (x, alone)]
    assert torch.equal(*dx)


@pytest.mark.gpu
def test_block_compiled_and_in_a_graph():
    torch.manual_seed(0)
    block = StripBlock(32, 4).cuda().eval().to(memory_format=torch.channels_last)
    x = random_map((2, 32, 16, 16), 0, device="cuda")
    compiled = torch.compile(block, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        expected = block(x)
        for _ in range(3):
            assert relative_norm(compiled(x), expected.double()) < 2e-2
