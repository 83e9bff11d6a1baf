"""Weights cast together: bit for bit the numbers of autocast, in whole runs as well; no single cast is left."""

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from famseg import task
from famseg.callbacks import CUDAGraphs, MovingAverage
from famseg.casts import PrecastWeights
from famseg.configuration import composed
from famseg.models import SIZES, FAMSeg

SMALL = {**SIZES["N"], "depths": (1, 1, 1, 1), "drop_path": 0.3}


class Shared(nn.Module):
    """One weight that two products share, one that is read in float32 too, and one that no step needs."""

    def __init__(self):
        super().__init__()
        self.shared, self.both, self.idle = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        return self.shared(F.gelu(self.shared(self.both(x)))) * self.both.weight.sum()


def steps(call, model, dtype, shape, device):
    """Results and gradients of some steps, the first of which only looks, and the weights after them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator, found = torch.Generator().manual_seed(1), []
    torch.manual_seed(2)
    for _ in range(2):
        with torch.autocast(device, dtype):
            result = call(torch.randn(shape, generator=generator).to(device))
        optimizer.zero_grad()
        result.float().square().mean().backward()
        found += [result.detach(), *(p.grad if p.grad is None else p.grad.clone() for p in model.parameters())]
        optimizer.step()
    return [*found, *(value.clone() for value in model.state_dict().values())]


def assert_equal(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        assert other is None if one is None else torch.equal(one, other)


def both(network, dtype, shape, device="cpu"):
    """The same steps with weights cast together and with autocast alone."""
    results = []
    for wrap in (PrecastWeights, lambda model: model):
        torch.manual_seed(0)
        model = network().to(device)
        results.append(steps(wrap(model), model, dtype, shape, device))
    return results


def famseg():
    return FAMSeg(**SMALL, kernels="torch").to(memory_format=torch.channels_last)


def test_steps_of_famseg_are_those_of_autocast():
    assert_equal(*both(famseg, torch.bfloat16, (2, 1, 32, 32)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_used_twice_not_only_narrow_or_not_at_all(dtype):
    assert_equal(*both(Shared, dtype, (4, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "mobilenet_v3", "segnext_t"])
def test_steps_of_peers_are_those_of_autocast(name):
    config = composed("train", [f"model={name}", "output=none"]).model
    assert_equal(*both(lambda: instantiate(config, num_classes=3), torch.bfloat16, (2, 1, 64, 64)))


class Casts(TorchDispatchMode):
    """Counts casts of a model's parameters."""

    def __init__(self, model):
        super().__init__()
        self.weights, self.count = {id(p) for p in model.parameters()}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and id(args[0]) in self.weights
        return func(*args, **(kwargs or {}))


def test_no_cast_of_a_weight_is_left():
    model = famseg()
    call = PrecastWeights(model)
    counts = []
    for _ in range(2):
        with Casts(model) as casts, torch.autocast("cpu", torch.bfloat16):
            call(torch.randn(2, 1, 32, 32))
        counts.append(casts.count)
    assert counts[0] > 50
    assert counts[1] == 0


def test_without_autocast_without_gradients_and_with_checkpointing_calls_are_plain(monkeypatch):
    monkeypatch.delattr("famseg.casts.functional_call")
    image = torch.randn(2, 1, 32, 32)
    plain, repeating = PrecastWeights(famseg()), PrecastWeights(FAMSeg(**SMALL, checkpointing=True))
    for _ in range(2):
        plain(image)
        with torch.autocast("cpu", torch.bfloat16):
            repeating(image)
            with torch.no_grad():
                plain(image)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 3, 1))

    def forward(self, image):
        return self.layers(image)


@pytest.fixture
def autocast_alone(monkeypatch):
    return lambda: monkeypatch.setattr(task, "PrecastWeights", lambda model: model.__call__)


def test_runs_are_those_of_autocast(fit, autocast_alone):
    """With gradients accumulated and clipped, and weights averaged."""
    options = {"network": Small, "precision": "bf16-mixed", "epochs": 1}
    options |= {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    trainer, ours = fit("ours", callbacks=[MovingAverage(decay=0.9)], **options)
    autocast_alone()
    _, plain = fit("plain", callbacks=[MovingAverage(decay=0.9)], **options)
    assert_equal(ours.state_dict().values(), plain.state_dict().values())
    assert trainer.precision == "bf16-mixed"


def test_a_resumed_run_is_the_uninterrupted_one(fit, tmp_path):
    options = {"network": Small, "precision": "bf16-mixed", "epochs": 2}
    _, whole = fit("whole", **options)
    with pytest.raises(fit.Stopped):
        fit("resumed", stop_after=1, **options)
    _, resumed = fit("resumed", ckpt_path=str(tmp_path / "resumed" / "checkpoints" / "last.ckpt"), **options)
    assert_equal(resumed.state_dict().values(), whole.state_dict().values())


def famseg_on_kernels():
    return FAMSeg(**SMALL, kernels="triton").to(memory_format=torch.channels_last)


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("network", [famseg, famseg_on_kernels])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_on_a_gpu_are_those_of_autocast(network, dtype, deterministic):
    assert_equal(*both(network, dtype, (2, 1, 64, 96), "cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_runs_of_graphs_are_those_of_autocast(fit, autocast_alone, precision):
    options = {"network": famseg_on_kernels, "accelerator": "gpu", "deterministic": True, "precision": precision}
    _, ours = fit("ours", epochs=2, callbacks=[CUDAGraphs(True)], **options)
    autocast_alone()
    _, plain = fit("plain", epochs=2, callbacks=[CUDAGraphs(True)], **options)
    for (name, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
