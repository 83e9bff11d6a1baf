"""The whole network on its kernels and in plain PyTorch: the same logits and gradients, in training and folded."""

import pytest
import torch

from famseg.folding import folded
from famseg.models import SIZES, FAMSeg

SMALL = {**SIZES["N"], "depths": (1, 1, 1, 1), "decoder_widths": (32, 16, 16, 16, 16, 16), "drop_path": 0.3}


def network(kernels, device, **options):
    torch.manual_seed(0)
    return FAMSeg(**SMALL, kernels=kernels, **options).to(device)


def image(device, *size):
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.slow
def test_a_step_of_training(device):
    results = []
    for kernels in ("triton", "torch"):
        model = network(kernels, device).train()
        torch.manual_seed(2)
        logits = model(image(device, 32, 40))
        gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()))
        results.append([logits.detach(), *gradients, *(b.float() for b in model.buffers())])
    total = sum(g.square().sum() for g in results[1][1:]).sqrt()
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() <= 1e-3 * plain.norm() + 1e-4 * total


@pytest.mark.gpu  # the interpreter takes minutes
def test_a_step_with_gradient_checkpointing(device):
    gradients = []
    for checkpointing in (False, True):
        model = network("triton", device, checkpointing=checkpointing).train()
        torch.manual_seed(2)
        loss = model(image(device, 32, 40)).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    total = sum(g.square().sum() for g in gradients[0]).sqrt()
    for plain, ours in zip(*gradients, strict=True):
        assert (ours - plain).norm() <= 1e-4 * plain.norm() + 1e-5 * total


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 64), (33, 40)])
def test_folded_for_prediction(size, device):
    plain, ours = network("torch", device), network("triton", device)
    for model in (plain, ours):
        torch.manual_seed(3)
        model.train()(image(device, 32, 64))  # statistics
    with torch.no_grad():
        torch.testing.assert_close(
            folded(ours.eval())(image(device, *size)), plain.eval()(image(device, *size)), rtol=1e-3, atol=1e-3
        )
