"""mamba-ssm is not needed here: packages made in a temporary folder stand for the ways it can be installed."""

import sys

import pytest
import torch
from test_ssd import arguments

from famseg.errors import UserError
from famseg.layers import mamba_kernel
from famseg.layers.ssd import choose_backend, ssd_chunked, ssd_reference

KERNEL = "def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None): return 'scanned'\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write a package `mamba_ssm` with this `__init__` and this text in its kernel's module, and forget any other."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    saved = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "mamba_ssm"}
    for name in saved:
        del sys.modules[name]
    mamba_kernel._import.cache_clear()

    def write(init="", kernel=KERNEL):
        folder = tmp_path / "mamba_ssm" / "ops" / "triton"
        folder.mkdir(parents=True)
        (tmp_path / "mamba_ssm" / "__init__.py").write_text(init)
        (folder / "ssd_combined.py").write_text(kernel)

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]
    sys.modules.update(saved)
    mamba_kernel._import.cache_clear()


def refusal():
    with pytest.raises(UserError) as caught:
        mamba_kernel.load(required=True)
    assert mamba_kernel.load(required=False) is None
    return str(caught.value)


@pytest.mark.usefixtures("install")
def test_absent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed (pip install 'famseg[mamba]')" in refusal()


def test_whole(install):
    install()
    assert mamba_kernel.load(required=True)(*range(6)) == "scanned"


def test_without_the_compiled_extension(install):
    install(init="import selective_scan_cuda\n")
    assert mamba_kernel.load(required=True)(*range(6)) == "scanned"
    with pytest.raises(ModuleNotFoundError, match="selective_scan_cuda"):
        __import__("mamba_ssm")  # others still see the package as it is


def test_with_an_extension_of_another_torch(install):
    install(init="raise ImportError('undefined symbol: _ZN3c10', name='selective_scan_cuda')\n")
    assert mamba_kernel.load(required=True)(*range(6)) == "scanned"


def test_without_triton(install):
    install(kernel="raise ModuleNotFoundError('No module named triton', name='triton')\n")
    assert "does not import (ModuleNotFoundError: No module named triton)" in refusal()


def test_without_the_extension_and_without_triton(install):
    install(init="import selective_scan_cuda\n", kernel="raise ModuleNotFoundError('no triton', name='triton')\n")
    assert "no triton" in refusal()
    assert "mamba_ssm" not in sys.modules


def test_broken_in_any_other_way(install):
    install(init="raise RuntimeError('no NVIDIA driver')\n")
    assert "does not import (RuntimeError: no NVIDIA driver)" in refusal()


def test_older_than_mamba_2(install):
    install(kernel="")
    assert "has no mamba_chunk_scan_combined" in refusal()


def test_module_of_mamba_1_only(install, tmp_path):
    install()
    (tmp_path / "mamba_ssm" / "ops" / "triton" / "ssd_combined.py").unlink()
    assert "does not import (ModuleNotFoundError" in refusal()


def test_the_choice(install):
    install()
    assert choose_backend("auto", torch.device("cpu")) is ssd_chunked
    assert choose_backend("auto", torch.device("cuda")).func is mamba_kernel.scan
    with pytest.raises(UserError, match="runs on CUDA only, the input is on cpu"):
        choose_backend("mamba_ssm", torch.device("cpu"))


@pytest.mark.usefixtures("install")
def test_the_choice_where_it_is_absent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto", torch.device("cuda")) is ssd_chunked
    with pytest.raises(UserError, match="not installed"):
        choose_backend("mamba_ssm", torch.device("cuda"))


def published(x, dt, A, B, C, chunk_size):
    """What mamba-ssm's function computes: x (batch, L, H, P), dt (batch, L, H), B, C (batch, L, G, N)."""
    repeat = x.shape[2] // B.shape[2]
    B, C = (t.repeat_interleave(repeat, dim=2) for t in (B, C))
    heads = [
        ssd_reference(
            x[None, :, :, [h]], dt[None, :, :, None, [h]], A[None, None, [h]], B[None, :, :, h], C[None, :, :, h]
        )
        for h in range(x.shape[2])
    ]
    return torch.cat(heads, dim=3)[0]


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_directions_become_heads_and_groups(directions):
    args = arguments(9, directions)
    torch.testing.assert_close(mamba_kernel.scan(published, *args), ssd_reference(*args))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("directions", [1, 4])
@pytest.mark.parametrize("length", [33, 64, 700])
def test_the_real_kernel(length, directions, dtype):
    kernel = mamba_kernel.load(required=False)
    if kernel is None:
        pytest.skip("mamba-ssm is not installed")
    exact = [t.cuda().requires_grad_() for t in arguments(length, directions, width=32, states=16)]
    x, dt, A, B, C = (t.detach() for t in exact)
    ours = [t.requires_grad_() for t in (x.to(dtype), dt.float(), A.float(), B.to(dtype), C.to(dtype))]
    truth, y = ssd_reference(*exact), mamba_kernel.scan(kernel, *ours)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 2e-3  # the kernel's dot products are TF32 and bf16
    assert ((y.double() - truth).norm() / truth.norm()).item() < tolerance
    expected = torch.autograd.grad(truth.sum(), exact)
    for mine, theirs in zip(torch.autograd.grad(y.sum(), ours), expected, strict=True):
        assert ((mine.double() - theirs).norm() / theirs.norm()).item() < 3 * tolerance
