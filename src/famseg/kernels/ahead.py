"""Kernels compiled for a GPU that need not be there: a driver that launches nothing stands in for CUDA's.

Triton's front end, its passes and ptxas are the real ones, and so is its cache on disk: a process with the GPU finds
there what was compiled ahead. Tensors on the device "meta" will do as arguments.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

HOPPER = GPUTarget("cuda", 90, 32)


class _Utilities:
    """What Triton asks of a device."""

    def __init__(self, seen: Callable[[str, bytes], None]) -> None:
        self.seen = seen

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """A module, a function, registers, spills, threads."""
        self.seen(name, binary)
        return 0, 0, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Those that are asked for."""
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}


class _Driver(DriverBase):  # type: ignore[misc]
    """Triton's view of one GPU of a kind."""

    def __init__(self, target: GPUTarget, seen: Callable[[str, bytes], None]) -> None:
        self.target, self.utils = target, _Utilities(seen)
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0
        self.set_current_device = lambda device: None
        self.launcher_cls = lambda source, metadata: lambda *args, **kwargs: None

    @classmethod
    def is_active(cls) -> bool:
        """Whether it is there."""
        return True

    def map_python_to_cpp_type(self, kind: str) -> str:
        """Of an argument; no launcher is built."""
        return kind

    def get_current_target(self) -> GPUTarget:
        """The GPU to compile for."""
        return self.target

    def get_active_torch_device(self) -> torch.device:
        """Where the tensors are."""
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        """Nothing is timed."""
        raise NotImplementedError


def compile_only(target: GPUTarget = HOPPER, seen: Callable[[str, bytes], None] = lambda name, binary: None) -> None:
    """From now on this process compiles kernels for `target` and launches none; `seen` gets each one's machine code."""
    triton.runtime.driver.set_active(_Driver(target, seen))
