"""Gradient checkpointing changes memory and time, and nothing else."""

import torch

from famseg.models import FAMSeg

TINY = {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "decoder_widths": [32, 16, 16, 16, 16, 16]}
TINY |= {"head_width": 16, "context_width": 32, "level_width": 16, "drop_path": 0.5}


def step(checkpointing):
    torch.manual_seed(0)
    model = FAMSeg(checkpointing=checkpointing, **TINY).double().train()
    image = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    torch.manual_seed(1)
    model(image).square().mean().backward()
    statistics = {k: v for k, v in model.state_dict().items() if "running" in k}
    return {k: p.grad for k, p in model.named_parameters()}, statistics


def test_same_gradients_and_running_statistics():
    plain, saved = step(False), step(True)
    for values, others in zip(plain, saved, strict=True):
        assert values.keys() == others.keys()
        for name, value in values.items():
            torch.testing.assert_close(others[name], value, rtol=1e-9, atol=1e-12)
