"""What every network of the project must do, image -> logits: subclass `ModelTester` and say how to build it."""

import copy
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from famseg.errors import UserError


def lively(model: nn.Module) -> nn.Module:
    """Fill all parameters from a formula: the same everywhere, and large enough that every block matters.

    Returns the model in evaluation, its batch norms adapted to `picture`.
    """
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            wave = torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + i).view(p.shape)
            middle = {"A_log": 1.5, "dt_bias": -3.0}.get(name.split(".")[-1], float((p == 1).all()))
            p.copy_(1.4 * wave / p[0].numel() ** 0.5 if p.ndim > 1 else middle + 0.3 * wave)
    return settled(model)


def settled(model: nn.Module) -> nn.Module:
    """The model as it is, in evaluation, its batch norms adapted to `picture`."""
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0  # take the statistics of the next batch
    weight = next(p for p in model.parameters() if p.ndim == 4)
    with torch.no_grad():
        model(picture(2, weight.shape[1], 96, 128).to(weight.dtype))
    for norm in norms:
        norm.eval().momentum = 0.1
    return model


def picture(batch: int, channels: int, height: int, width: int) -> Tensor:
    """A smooth image from a formula."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    planes = [torch.sin(3 * x + c) * torch.cos(5 * y - b) for b in range(batch) for c in range(channels)]
    return torch.stack(planes).view(batch, channels, height, width)


def total(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A scalar that every output of a network in training matters for: its logits, and those of auxiliary heads."""
    heads = (outputs,) if isinstance(outputs, Tensor) else outputs
    assert all(head.shape == heads[0].shape for head in heads)
    return torch.stack([head.float().square().mean() for head in heads]).sum()


class ModelTester:
    build: ClassVar[Callable[..., nn.Module]]
    sizes: ClassVar[list[tuple[int, int]]] = [(64, 96), (95, 131), (32, 32)]
    minimum: ClassVar[int] = 32
    prepare: ClassVar[Callable[[nn.Module], nn.Module]] = staticmethod(lively)
    half_error: ClassVar[float] = 0.1  # relative, of logits in bf16

    @pytest.fixture(scope="class")
    def model(self):
        torch.manual_seed(0)
        return type(self).prepare(type(self).build())

    @pytest.mark.parametrize("size", sizes)
    def test_logits_are_as_large_as_the_image(self, model, size):
        with torch.no_grad():
            logits = model(picture(1, 1, *size))
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()
        assert logits.std() > 1e-2

    @pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (3, 5)])
    def test_channels_and_classes(self, in_channels, num_classes):
        model = type(self).build(in_channels=in_channels, num_classes=num_classes).eval()
        with torch.no_grad():
            assert model(picture(2, in_channels, 64, 64)).shape == (2, num_classes, 64, 64)

    def test_samples_of_a_batch_do_not_mix(self, model):
        images = picture(2, 1, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(model(images)[1:], model(images[1:]), rtol=1e-4, atol=1e-4)

    def test_every_gradient_is_finite_and_there(self):
        model = type(self).build().train()
        total(model(picture(2, 1, 64, 96))).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_bf16_autocast(self, model):
        images = picture(1, 1, 64, 96)
        with torch.no_grad():
            exact = model(images)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = model(images)
        assert ((half.float() - exact).norm() / exact.norm()).item() < self.half_error

    def test_bf16_autocast_trains(self):
        model = type(self).build().train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(picture(2, 1, 64, 64))
        total(outputs).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_double(self, model):
        images = picture(1, 1, 64, 64)
        double = copy.deepcopy(model).double()
        with torch.no_grad():
            exact = double(images.double())
            assert exact.dtype == torch.float64
            torch.testing.assert_close(model(images), exact.float(), rtol=1e-3, atol=1e-3)

    def test_channels_last(self, model):
        images = picture(2, 1, 64, 96)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        with torch.no_grad():
            ours = last(images.to(memory_format=torch.channels_last))
            torch.testing.assert_close(ours, model(images), rtol=1e-4, atol=1e-4)

    def test_copies_and_states_give_the_same_logits(self, model):
        images = picture(1, 1, 64, 64)
        other = type(self).build().eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(model)(images), model(images))
            assert torch.equal(other(images), model(images))

    def test_wrong_channels(self, model):
        with pytest.raises(UserError, match=r"\(batch, 1, height, width\), not \(1, 3, 64, 64\)"):
            model(torch.zeros(1, 3, 64, 64))

    def test_a_missing_batch_dimension(self, model):
        with pytest.raises(UserError, match=r"not \(1, 64, 64\)"):
            model(torch.zeros(1, 64, 64))

    def test_too_small(self, model):
        with pytest.raises(UserError, match=r"31 x 64 px is too small: it needs 32 x 32"):
            model(torch.zeros(1, 1, 31, 64))
