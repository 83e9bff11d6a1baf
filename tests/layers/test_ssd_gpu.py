"""On a GPU: the chunked form against mamba-ssm's kernel and against the float64 recurrence, as FAMSeg calls them."""

import pytest
import torch
from test_ssd import arguments

from famseg.layers import mamba_kernel
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.ssd import ssd, ssd_reference

pytestmark = pytest.mark.gpu
LENGTHS = [31, 64, 97, 1000]  # below, at and off the multiples of both chunk lengths, 32 and 64
NAMES = ["y", "x", "dt", "A", "B", "C"]
BACKENDS = ["chunked", "mamba_ssm"]
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 1e-2}  # of mamba-ssm: its dot products are TF32 or bf16


@pytest.fixture(autouse=True)
def _whole_float32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def _mamba_ssm():
    if mamba_kernel.load(required=False) is None:
        pytest.skip("mamba-ssm is not installed")


def outcome(backend, tensors, weight):
    """The scan's output and its gradients with respect to x, dt, A, B, C."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = ssd_reference(*leaves) if backend == "reference" else ssd(*leaves, backend=backend)
    return [y, *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


def relative(ours, truth):
    return ((ours.double() - truth.double()).norm() / truth.double().norm()).item()


def rounded(tensors, dtype):
    """X, B and C as a network in `dtype` has them; dt and A are float32 in any."""
    x, dt, A, B, C = tensors
    return x.to(dtype), dt.float(), A.float(), B.to(dtype), C.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bf16"])
@pytest.mark.parametrize("directions", [1, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_on_a_gpu(length, directions, dtype):
    """The inputs are rounded first: what is left is the error of the computation. Outputs have the dtype of x."""
    inputs = rounded([t.cuda() for t in arguments(length, directions, width=32, states=16)], dtype)
    exact = [t.double() for t in inputs]
    weight = torch.randn(exact[0].shape, dtype=torch.float64, device="cuda")
    limit = 1e-5 if dtype == torch.float32 else 5e-3  # bf16 keeps 8 bits
    ours, truth = outcome("chunked", inputs, weight), outcome("reference", exact, weight.to(dtype))
    for name, mine, other in zip(NAMES, ours, truth, strict=True):
        assert relative(mine, other) < limit * (1 if name == "y" else 10), name


@pytest.mark.usefixtures("_mamba_ssm")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bf16"])
@pytest.mark.parametrize("directions", [1, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_against_mamba_ssm(length, directions, dtype):
    inputs = rounded([t.cuda() for t in arguments(length, directions, width=32, states=16)], dtype)
    weight = torch.randn(inputs[0].shape, device="cuda")
    ours, theirs = (outcome(backend, inputs, weight) for backend in BACKENDS)
    assert ours[0].dtype == theirs[0].dtype == dtype
    for name, mine, other in zip(NAMES, ours, theirs, strict=True):
        assert relative(mine, other) < TOLERANCE[dtype] * (1 if name == "y" else 3), name


@pytest.mark.usefixtures("_mamba_ssm")
@pytest.mark.parametrize("directions", [1, 4])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_a_shortcut_is_the_same_layer_with_either(directions, half):
    """A map of 13 x 21 = 273 positions, in float32 and inside autocast."""
    torch.manual_seed(0)
    layers = {backend: Mamba2D(64, directions, backend=backend).cuda() for backend in BACKENDS}
    layers["mamba_ssm"].load_state_dict(layers["chunked"].state_dict())
    u = torch.randn(2, 64, 13, 21, device="cuda")
    results = {}
    for backend, layer in layers.items():
        x = u.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            y = layer(x)
        y.float().square().mean().backward()
        results[backend] = {"y": y.detach(), "u": x.grad} | {name: p.grad for name, p in layer.named_parameters()}
    for name, ours in results["chunked"].items():
        assert relative(ours, results["mamba_ssm"][name]) < (3e-2 if half else 6e-3), name
