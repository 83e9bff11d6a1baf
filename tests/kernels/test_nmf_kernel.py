"""The factorisation: the kernel against its plain form in float64, and the Hamburger on it against itself."""

import random

import pytest
import torch
import torch.nn.functional as F
from shapes import TOLERANCE, assert_like_twin, relative_norm

from famseg.errors import UserError
from famseg.kernels import nmf
from famseg.layers.hamburger import NMF, Hamburger


def positions(batch, count, channels, dtype=torch.float32, device="cpu", layout="channels", seed=0):
    """What follows a ReLU; `layout` says whether channels or positions are contiguous, or nothing is."""
    generator = torch.Generator().manual_seed(seed)
    x = F.relu(torch.randn(batch, count + 2, 2 * channels, generator=generator)).to(device, dtype)
    if layout == "sliced":
        return x[:, 1:-1, ::2]
    x = x[:, 1:-1, :channels]
    return x.contiguous() if layout == "channels" else x.mT.contiguous().mT


def first_basis(channels, rank, device="cpu"):
    return F.normalize(torch.rand(channels, rank, generator=torch.Generator().manual_seed(1)), dim=0).to(device)


def assert_close(x, rank, steps):
    """Against the plain form; the gradient is that of its last update and of the ReLU that made x."""
    batch, _, channels = x.shape
    plain, basis = NMF(channels, rank, backend="torch"), first_basis(channels, rank, x.device)

    def twin(x):
        return plain._factorise(F.relu(x), basis.double().expand(batch, -1, -1), steps)

    assert_like_twin(lambda x: nmf.factorise(x, basis, steps), twin, (x,), TOLERANCE[x.dtype])


@pytest.mark.parametrize(
    ("batch", "count", "channels", "rank", "steps", "dtype", "layout"),
    [
        (1, 1, 32, 16, 1, torch.float32, "channels"),
        (2, 70, 40, 5, 3, torch.float32, "positions"),
        (1, 130, 64, 16, 2, torch.float32, "sliced"),
        (2, 70, 96, 16, 2, torch.bfloat16, "channels"),
        (1, 65, 32, 64, 3, torch.bfloat16, "sliced"),
        (2, 260, 40, 5, 2, torch.bfloat16, "positions"),  # a run of tiles and a shorter one
        (1, 40, 260, 16, 2, torch.bfloat16, "channels"),  # more channels than a program holds
    ],
)
def test_like_the_plain_form(batch, count, channels, rank, steps, dtype, layout, device):
    assert_close(positions(batch, count, channels, dtype, device, layout), rank, steps)


@pytest.mark.parametrize(("count", "rank"), [(300, 8), (100, 20)])  # in runs of tiles, and tile by tile
def test_factors_of_bf16_maps_are_finer_than_bf16(count, rank, device):
    x = positions(1, count, 32, torch.bfloat16, device)
    basis = first_basis(32, rank, device)
    code, found = nmf.factors(x, basis, 6)
    exact, exact_code = basis.double(), torch.softmax(x.double() @ basis.double(), dim=-1)
    for _ in range(6):
        exact_code = NMF._update_code(x.double(), exact, exact_code)
        exact = exact * (x.double().mT @ exact_code) / (exact @ (exact_code.mT @ exact_code) + 1e-6)
    assert relative_norm(found, exact) < 1e-4
    assert relative_norm(code, exact_code) < 1e-4


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_an_image_does_not_depend_on_its_batch(dtype, device):
    x, basis = positions(2, 270, 32, dtype, device), first_basis(32, 4, device)
    together = nmf.factorise(x, basis, 2)
    assert torch.equal(nmf.factorise(x, basis, 2), together)
    assert torch.equal(nmf.factorise(x[1:2], basis, 2), together[1:2])


def test_parts_in_several_portions(device, monkeypatch):
    monkeypatch.setattr(nmf, "PARTS", 512)  # two at once, of three
    assert_close(positions(1, 140, 32, device=device), 5, 2)


def test_a_map_of_zeros_stays_zero(device):
    x = torch.zeros(1, 20, 32, device=device)
    assert torch.equal(nmf.factorise(x, first_basis(32, 4, device), 2), x)


def test_as_the_compiler_sees_it(device):
    x, basis = positions(2, 20, 32, device=device, layout="positions"), first_basis(32, 4, device)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(nmf.factors, (x, basis, 1), test_utils=checks[:2])
    code, basis = nmf.factors(x, basis, 1)
    torch.library.opcheck(nmf.project, (x.requires_grad_(), code, basis), test_utils=checks)
    torch.library.opcheck(nmf.project_backward, (torch.ones_like(x), x.detach(), code, basis), test_utils=checks[:2])


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_is_the_same_on_the_kernel(training, device):
    x = torch.randn(2, 32, 5, 6, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    found = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        layer = Hamburger(32, 4, train_steps=2, eval_steps=3, backend=backend).to(device).train(training)
        y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))])
    for ours, plain in zip(*found, strict=True):
        assert relative_norm(ours, plain.double()) < 1e-4


def test_the_kernel_reads_bf16(device):
    seen = []
    layer = Hamburger(32, 4, eval_steps=1, backend="triton").to(device).eval()
    layer.ham.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        layer(torch.randn(1, 32, 4, 4, device=device).bfloat16())
    assert seen == [(torch.bfloat16, torch.bfloat16)]


def test_ranks_beyond_the_kernel():
    with pytest.raises(UserError, match=r"up to rank 128, not model\.rank=200"):
        NMF(256, 200, backend="triton")
    assert not NMF(256, 200).runs_kernel(torch.zeros(1, 1, 256))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(200))
def test_random_shapes(seed, device):
    draw = random.Random(seed)
    count, channels = round(5000 ** draw.random()), draw.choice([32, 64, 96, 256, 256, 512])
    dtype, layout = draw.choice([torch.float32, torch.bfloat16]), draw.choice(["channels", "positions", "sliced"])
    x = positions(draw.randint(1, 4), count, channels, dtype, device, layout, seed)
    assert_close(x, draw.choice([4, 16, 16, 64, 100]), draw.randint(1, 7))


@pytest.mark.gpu
def test_compiled_without_a_break(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # else rounding moves what the ReLUs see
    layer = Hamburger(64, 16, backend="triton").to(device).eval()
    x = torch.randn(2, 64, 12, 20, device=device)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-5)
