"""Training steps as CUDA graphs: refused in words where they cannot be, and without any influence on the result."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from famseg.callbacks import CUDAGraphs, graphs
from famseg.errors import UserError


def test_on_a_cpu_they_cannot_be_asked_for(fit):
    with pytest.raises(UserError, match="enabled=true cannot be: training runs on cpu"):
        fit(epochs=1, callbacks=[CUDAGraphs(True)])


def test_on_a_cpu_nothing_changes(fit):
    _, plain = fit("plain", epochs=1)
    _, ours = fit("graphs", epochs=1, callbacks=[CUDAGraphs()])
    states = zip(plain.state_dict().values(), ours.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_after_training_no_gradient_holds_the_graphs_memory():
    task = nn.Linear(2, 2)
    task.batch_loss = lambda x: task(x).sum()
    task.batch_loss(torch.ones(1, 2)).backward()
    CUDAGraphs().on_train_end(None, task)
    assert not hasattr(task, "batch_loss")
    assert all(p.grad is None for p in task.parameters())


def test_an_unknown_value():
    with pytest.raises(UserError, match="enabled=maybe: give auto, true or false"):
        CUDAGraphs("maybe")


def test_gradients_are_captured_outside_of_autocast(monkeypatch):
    """As Lightning takes them: autocast would round the products of a backward pass in float32."""
    seen = []
    task = nn.Linear(2, 2)
    task.classes, task.batch_loss = ("bg", "fb"), lambda *batch: seen.append(torch.is_autocast_enabled("cpu"))

    def capture(loss, parameters, batch):
        loss(*batch)
        seen.append(torch.is_autocast_enabled("cpu"))

    monkeypatch.setattr(graphs, "ReplayedStep", capture)
    data = SimpleNamespace(batch_size=1, size=(2, 2))
    task.device = torch.device("cpu")
    graphs.replayed(SimpleNamespace(precision_plugin=MixedPrecision("bf16-mixed", "cpu"), datamodule=data), task)
    assert seen == [True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_weights_are_those_of_plain_steps(fit, precision):
    """Two epochs on each side of a switch; drop path and NMF bases are drawn within the graph."""
    options = {"network": fit.small, "accelerator": "gpu", "deterministic": True, "precision": precision}
    _, plain = fit("plain", **options)
    _, ours = fit("graphs", callbacks=[CUDAGraphs(True)], **options)
    for (name, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


class Waits(nn.Conv2d):
    """Asks the GPU for a value where it does not train."""

    def __init__(self):
        super().__init__(1, 3, 3, padding=1)

    def forward(self, image):
        logits = super().forward(image)
        return logits if self.training else logits * float(image.isfinite().all().item())


@pytest.mark.gpu
def test_a_validation_that_cannot_be_captured_is_plain_and_costs_nothing_else(fit, caplog):
    options = {"network": Waits, "accelerator": "gpu", "deterministic": True, "switch": None, "epochs": 4}
    stream = torch.cuda.current_stream()
    with caplog.at_level("INFO"):
        _, ours = fit("graphs", callbacks=[CUDAGraphs(True)], **options)
    assert "is validated without a CUDA graph" in caplog.text
    assert torch.cuda.current_stream() == stream
    _, plain = fit("plain", **options)
    for (name, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("later", [GradientAccumulationScheduler({4: 2}), StochasticWeightAveraging(1e-3)])
def test_steps_that_will_be_others_in_a_later_epoch_are_not_captured(later):
    trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1, callbacks=[later])
    task = SimpleNamespace(device=torch.device("cuda"), model=nn.Identity())
    assert type(later).__name__ in graphs._obstacle(trainer, task)
    trainer.callbacks = []
    assert not graphs._obstacle(trainer, task)


@pytest.mark.gpu
def test_stochastic_weight_averaging_trains_as_without_captures(fit):
    options = {"accelerator": "gpu", "network": fit.small, "switch": None, "deterministic": True}
    averaged = [fit(name, callbacks=[*graphs, StochasticWeightAveraging(1e-3, 2, 1)], **options)[1]
                for name, graphs in (("plain", []), ("graphs", [CUDAGraphs()]))]  # fmt: skip
    for (name, a), b in zip(averaged[0].state_dict().items(), averaged[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.gpu
def test_steps_of_several_batches_are_refused(fit):
    with pytest.raises(UserError, match="accumulate_grad_batches=2"):
        fit(epochs=1, accelerator="gpu", network=fit.small, callbacks=[CUDAGraphs(True)], accumulate_grad_batches=2)
