"""Kernels are compiled before the first step, and of the pass that shows which they are nothing stays."""

import sys
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from famseg.callbacks import CUDAGraphs, KernelCompilation, compilation
from famseg.callbacks.compilation import rehearse

LOSS = {"famseg.kernels.loss", "famseg.kernels.partials"}


def state_of(task):
    """All that the pass must not change."""
    random = [torch.get_rng_state()]
    if task.device.type == "cuda":
        random.append(torch.cuda.get_rng_state(task.device))
    state = {name: value.clone() for name, value in task.state_dict().items()}
    return state, random, [module.training for module in task.modules()], [p.grad for p in task.parameters()]


class Rehearsal(Callback):
    """Rehearses on any device, and compares."""

    def on_fit_start(self, trainer, task):
        self.before = state_of(task)
        self.rehearse(trainer, task)
        self.after = state_of(task)

    def rehearse(self, trainer, task):
        rehearse(trainer, task)

    def assert_no_trace(self):
        torch.testing.assert_close(self.after, self.before, rtol=0, atol=0)


class Compiled(Rehearsal):
    """Also notes which kernels are compiled when: before training, in its first step, in the first validation."""

    def __init__(self):
        self.when, self.names = "", {"early": [], "step": [], "validation": [], "": []}

    def add(self, *, fn, **_):
        self.names[self.when].append(fn.name)

    def rehearse(self, trainer, task):
        self.when = "early"
        KernelCompilation().on_fit_start(trainer, task)

    def on_train_start(self, trainer, task):  # and a capture
        self.when = "step"

    def on_train_batch_end(self, *_):
        self.when = ""

    def on_validation_batch_start(self, trainer, task, batch, batch_idx, dataloader_idx=0):
        self.when = "validation" if len(batch["image"]) == trainer.datamodule.batch_size else ""

    def on_validation_batch_end(self, *_):
        self.when = ""


@pytest.fixture
def compiled(monkeypatch):
    """As in a process that has launched no kernel yet."""
    triton, compiled = pytest.importorskip("triton"), Compiled()
    for kernel in kernels():
        kernel.device_caches.clear()
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", compiled.add)
    return compiled


def kernels():
    modules = [module for name, module in sys.modules.items() if name.startswith("famseg.kernels.")]
    return [value for module in modules for value in vars(module).values() if hasattr(value, "device_caches")]


def test_nothing_stays_of_the_pass(fit):
    rehearsal = Rehearsal()
    _, ours = fit("ours", epochs=1, callbacks=[rehearsal])
    rehearsal.assert_no_trace()
    _, plain = fit("plain", epochs=1)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_on_a_cpu_nothing_is_compiled(fit, monkeypatch):
    rehearsed = []
    monkeypatch.setattr(compilation, "rehearse", lambda trainer, task: rehearsed.append(task))
    fit(epochs=1, callbacks=[KernelCompilation()])
    assert not rehearsed


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_no_kernel_is_left_to_a_step(fit, compiled, precision, graphs):
    network = partial(fit.small, kernels="triton", drop_path=0.1)
    callbacks = [compiled, CUDAGraphs("auto" if graphs else False)]
    fit(epochs=1, accelerator="gpu", network=network, precision=precision, callbacks=callbacks)
    assert len(set(compiled.names["early"])) > 20
    assert not compiled.names["step"]
    assert not compiled.names["validation"]
    compiled.assert_no_trace()


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_none_with_gradient_checkpointing(fit, compiled):
    network = partial(fit.small, kernels="triton", checkpointing=True)
    fit(epochs=1, accelerator="gpu", network=network, precision="bf16-mixed", callbacks=[compiled])
    assert len(set(compiled.names["early"])) > 20
    assert not compiled.names["step"]
    compiled.assert_no_trace()


@pytest.mark.gpu
def test_of_a_network_without_kernels_the_loss_has_some(fit, compiled):
    fit(epochs=1, accelerator="gpu", network=partial(fit.small, kernels="torch"), callbacks=[compiled])
    assert set(compiled.names["early"]) <= {kernel.fn.__name__ for kernel in kernels() if kernel.__module__ in LOSS}
    compiled.assert_no_trace()


@pytest.mark.gpu
def test_a_pass_that_fails_stops_no_run(fit, monkeypatch, caplog):
    def fail(trainer, task):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(compilation, "rehearse", fail)
    with caplog.at_level("INFO"):
        fit(epochs=1, accelerator="gpu", network=fit.small, callbacks=[KernelCompilation()])
    assert "GPU kernels are compiled one by one: out of memory" in caplog.text
