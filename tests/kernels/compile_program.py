"""Compiles for an NVIDIA GPU every kernel that a training step launches, on a machine without one."""

import torch

import famseg.kernels
import famseg.kernels.narrow
from famseg.kernels.ahead import compile_only
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg


def main():
    """A step of FAMSeg in half precision; its numbers are what happened to lie in memory."""
    compiled = set()
    compile_only(seen=lambda name, binary: compiled.add(name))
    famseg.kernels._obstacle = lambda device, dtype: ""
    famseg.kernels.narrow.LEAST = 1  # the maps are small
    model = FAMSeg(**{**SIZES["T"], "depths": (1, 1, 1, 1)}, kernels="triton", drop_path=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 64, 64))
    CrossEntropyDice()(logits, torch.randint(3, (2, 64, 64))).backward()
    print("\n".join(sorted(compiled)))


if __name__ == "__main__":
    main()
