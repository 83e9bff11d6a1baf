"""mamba-ssm's Triton kernel of the SSD scan, imported with care.

mamba-ssm's `__init__` imports `selective_scan_cuda`, the compiled extension of Mamba-1, which Mamba-2 does not need and
a build without CUDA sources has not: then the package's first import fails. The kernel's module is pure Triton.
"""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor

from famseg.errors import UserError

MODULE = "mamba_ssm.ops.triton.ssd_combined"
FUNCTION = "mamba_chunk_scan_combined"
Kernel = Callable[..., Tensor]


def load(required: bool) -> Kernel | None:
    """The function `mamba_chunk_scan_combined`, or None where it cannot be had.

    Raises:
        UserError: it is required and cannot be had; the message says why.
    """
    kernel, why = _import()
    if kernel is None and required:
        raise UserError(f"model.kernels=mamba_ssm cannot be used: {why}. Use model.kernels=auto or torch.")
    return kernel


@functools.cache
def _import() -> tuple[Kernel | None, str]:
    if importlib.util.find_spec("mamba_ssm") is None:
        return None, "mamba-ssm is not installed (pip install 'famseg[mamba]')"
    try:
        return getattr(_import_module(), FUNCTION), ""
    except AttributeError:
        return None, f"the installed mamba-ssm has no {FUNCTION}; it is older than 2.0"
    except Exception as error:  # a foreign package's import may fail in any way, and must not take training down
        return None, f"the installed mamba-ssm does not import ({type(error).__name__}: {error})"


def _import_module() -> types.ModuleType:
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        if error.name != "selective_scan_cuda":
            raise
    return _import_without_init()


def _import_without_init() -> types.ModuleType:
    """Import the kernel's module while a bare package stands in for the one whose `__init__` fails."""
    spec = importlib.util.find_spec("mamba_ssm")
    assert spec is not None
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["mamba_ssm"] = package
    try:
        return importlib.import_module(MODULE)
    finally:
        del sys.modules["mamba_ssm"]  # whoever else wants the package shall see its own error


def scan_with(kernel: Kernel, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The scan of `famseg.layers.ssd.ssd` by mamba-ssm's kernel.

    Raises:
        UserError: the device is not CUDA.
    """
    if device.type != "cuda":
        raise UserError(f"model.kernels=mamba_ssm runs on CUDA only, the input is on {device}. Use model.kernels=auto.")
    return functools.partial(scan, kernel)


def scan(kernel: Kernel, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Directions become heads and groups of one call, each in its own running order; shapes as in `ssd`."""
    orders, ways, heads = A.shape
    directions = [(i, way) for i in range(orders) for way in range(ways)]
    flat_x = torch.cat([_run(x[i], way) for i, way in directions], dim=2)  # (batch, L, O R H, P)
    flat_dt = torch.cat([_run(dt[i, :, :, way], way) for i, way in directions], dim=2)
    groups = [torch.stack([_run(t[i], way) for i, way in directions], dim=2) for t in (B, C)]  # (batch, L, O R, N)
    y = torch.unflatten(kernel(flat_x, flat_dt, A.flatten(), *groups, chunk_size=64), 2, (orders, ways, heads))
    return sum(_run(y[:, :, :, way], way) for way in range(ways)).permute(2, 0, 1, 3, 4)  # type: ignore[union-attr]


def _run(t: Tensor, way: int) -> Tensor:
    """A sequence (batch, L, ...) in the order in which a way runs through it."""
    return t.flip(1) if way else t
