"""Compiles for an NVIDIA GPU every kernel that a training step launches, on a machine without one.

A driver that launches nothing stands in for CUDA's: Triton's front end, its passes and ptxas are the real ones.
"""

from contextlib import nullcontext

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

import famseg.kernels
import famseg.kernels.narrow
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg

compiled = set()


class Utilities:
    """What Triton asks of a device."""

    def load_binary(self, name, binary, shared, device):
        """A module, a function, registers, spills, threads."""
        compiled.add(name)
        return 0, 0, 0, 0, 1024

    def get_device_properties(self, device):
        """Those that are asked for."""
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}


class Driver(DriverBase):
    """Triton's view of one GPU of the Hopper generation."""

    def __init__(self):
        self.utils = Utilities()
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0
        self.set_current_device = lambda device: None
        self.launcher_cls = lambda source, metadata: lambda *args, **kwargs: None

    @classmethod
    def is_active(cls):
        """Whether it is there."""
        return True

    def map_python_to_cpp_type(self, kind):
        """Of an argument; no launcher is built."""
        return kind

    def get_current_target(self):
        """The GPU to compile for."""
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        """Where the tensors are."""
        return torch.device("cpu")

    def get_benchmarker(self):
        """Nothing is timed."""
        raise NotImplementedError


def main():
    """A step of FAMSeg in half precision; its numbers are what happened to lie in memory."""
    triton.runtime.driver.set_active(Driver())
    famseg.kernels._obstacle = lambda device, dtype: ""
    famseg.kernels.narrow.LEAST = 1  # the maps are small
    torch.cuda.device_of = lambda x: nullcontext()
    model = FAMSeg(**{**SIZES["T"], "depths": (1, 1, 1, 1)}, kernels="triton", drop_path=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 64, 64))
    CrossEntropyDice()(logits, torch.randint(3, (2, 64, 64))).backward()
    print("\n".join(sorted(compiled)))


if __name__ == "__main__":
    main()
