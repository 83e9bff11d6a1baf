"""Compiles for an NVIDIA GPU every kernel that a training step launches, on a machine without one."""

import json

import torch
from triton import knobs

import famseg.kernels
import famseg.kernels.narrow
from famseg.kernels.ahead import compile_only
from famseg.kernels.launch import compiling
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg


def step(model):
    """One of FAMSeg in half precision; its numbers are what happened to lie in memory."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 64, 64))
    CrossEntropyDice()(logits, torch.randint(3, (2, 64, 64))).backward()


def main():
    """Names of kernels: those compiled side by side, and those that the step then had to compile and to load."""
    compiled, loaded = [], []
    compile_only(seen=lambda name, binary: loaded.append(name))
    knobs.runtime.jit_post_compile_hook = lambda *, fn, **_: compiled.append(fn.name)
    famseg.kernels._obstacle = lambda device, dtype: ""
    famseg.kernels.narrow.LEAST = 1  # the maps are small
    model = FAMSeg(**{**SIZES["T"], "depths": (1, 1, 1, 1)}, kernels="triton", drop_path=0.1)
    with compiling():
        step(model)
    names = {"early": compiled.copy(), "launched": loaded.copy()}
    compiled.clear()
    step(model)
    print(json.dumps(names | {"late": compiled, "loaded": loaded}))


if __name__ == "__main__":
    main()
