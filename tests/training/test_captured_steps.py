"""Captured steps with captured updates and norms are plain steps; on a CPU with stand-ins for the graphs."""

import copy
import csv
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from famseg.callbacks import CUDAGraphs, MovingAverage, NanGuard, graphs
from famseg.callbacks.rehearsal import trained
from famseg.errors import UserError
from famseg.gradients import largest_of
from famseg.phases import OptimizerOption
from famseg.recurring import Recurring
from famseg.replay import ReplayedStep
from famseg.schedules import RateLimits, poly
from famseg.signals import Preempted
from famseg.update import suits

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.01),
    "adam": torch.optim.Adam,
    "momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "sgd": partial(torch.optim.SGD, lr=1e-3),
    "adadelta": torch.optim.Adadelta,  # has no fused form
}


class Step(ReplayedStep):
    """Gradients that always lie in the same memory."""

    def __init__(self, function, parameters):
        self._function, self._start = function, torch.zeros((), requires_grad=True)
        self.gradients = [(p, torch.zeros_like(p)) for p in parameters]
        self.largest = torch.zeros(len(parameters))

    def forward(self, batch):
        with torch.enable_grad():
            self._loss = self._function(*batch)
        return self._loss.detach()

    def backward(self, scale):
        grads = torch.autograd.grad(self._loss, [p for p, _ in self.gradients], scale)
        self.largest.copy_(largest_of(list(grads)))
        for (parameter, there), gradient in zip(self.gradients, grads, strict=True):
            parameter.grad = there.copy_(gradient)


class Update:
    """Steps with the numbers and gradients that an optimizer had at the capture, and with no others."""

    count = 0

    def __init__(self, step):
        self._step, self._groups = step, step.__self__.param_groups
        self._numbers = [dict(group) for group in self._groups]
        self._gradients = [(p, p.grad) for group in self._groups for p in group["params"]]
        Update.count += 1

    def replay(self):
        now = [dict(group) for group in self._groups]
        for group, then in zip(self._groups, self._numbers, strict=True):
            group.update(then)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._step()
        for group, before in zip(self._groups, now, strict=True):
            group.update(before)


class Graphs(CUDAGraphs):
    def on_train_start(self, trainer, task):
        task.batch_loss = Step(task.batch_loss, trained(task))
        task.batch_evaluation = Recurring(task.batch_evaluation, "validated", evaluation)


def evaluation(function, *inputs):
    """Reads and writes its own tensors."""
    fixed = [tensor.clone() for tensor in inputs]
    results = [result.clone() for result in function(*fixed)]

    def replay(*new):
        for there, tensor in zip((*fixed, *results), (*new, *function(*new)), strict=True):
            assert there.shape == tensor.shape
            there.copy_(tensor)
        return [result.clone() for result in results]

    return replay


class Interrupt(Callback):
    """Ends a run as an error does."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == 3:
            self.task, self.optimizer = task, trainer.optimizers[0]
            assert "batch_loss" in task.__dict__
            assert "step" in self.optimizer.__dict__
            raise ValueError("told to fail")


class Reload(Callback):
    """Puts a state of other tensors into the optimizer."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == 3:
            optimizer = trainer.optimizers[0]
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


class Poison(Callback):
    """Makes the images of a step infinite."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == 3:
            batch["image"].fill_(torch.inf)


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def train(request, fit, monkeypatch):
    """Trains with `captured` "nothing", "steps", or "updates" too; returns trainer and task."""
    on_gpu = {"accelerator": "gpu", "deterministic": True, "network": fit.small}
    fake = request.param == "cpu"
    if fake:
        monkeypatch.setattr("famseg.update.captured", Update)
        monkeypatch.setattr(Update, "count", 0)
        monkeypatch.setattr("famseg.callbacks.ema.captured", lambda function: SimpleNamespace(replay=function))

    def run(folder, captured, name="adamw", callbacks=(), **options):
        steps = [Graphs() if fake else CUDAGraphs(True)] if captured != "nothing" else []
        options |= {"decay": poly, "optimizer": OptimizerOption(name, OPTIMIZERS[name], RateLimits())} | (
            {} if fake else on_gpu
        )
        with monkeypatch.context() as patch:
            if captured != "updates":
                patch.setattr(graphs, "suits", lambda optimizer: False)
            return fit(folder, callbacks=[*steps, *callbacks], **options)

    run.fake = fake
    return run


def assert_same(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_plain_updates(train, name):
    """Two rates on each side of a switch to SGD with momentum."""
    trainer, ours = train("ours", "updates", name=name)
    assert "step" not in trainer.optimizers[0].__dict__
    assert all(p.grad is None for p in ours.parameters())
    if train.fake:
        assert Update.count == (2 if name == "adadelta" else 4)
        assert_same(ours, train("nothing", "nothing", name=name)[1])
    assert_same(ours, train("plain", "steps", name=name)[1])


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_a_state_that_is_loaded_later_is_the_one_that_is_updated(train, name):
    _, ours = train("ours", "updates", name=name, callbacks=[Reload()], epochs=2)
    if train.fake:
        assert Update.count == 3  # one of them anew
    assert_same(ours, train("plain", "steps", name=name, callbacks=[Reload()], epochs=2)[1])


@pytest.mark.parametrize("callbacks", [(), (partial(MovingAverage, 0.9),)])
def test_validation_is_that_of_plain_passes(train, tmp_path, callbacks):
    """Of a last batch that is smaller, and of weights that change from one replay to the next."""
    data = {"n": 40, "val_fraction": 0.4}
    for name, captured in (("ours", "steps"), ("plain", "nothing")):
        train(name, captured, callbacks=[make() for make in callbacks], data=data)
    texts = ((tmp_path / name / "metrics.csv").read_text() for name in ("ours", "plain"))
    ours, plain = (list(csv.DictReader(text.splitlines())) for text in texts)
    assert len({row["val/loss"] for row in ours}) == 4  # its mIoU stays the same while all is background
    assert ours == plain


def test_nothing_captured_outlives_an_error(train):
    """The same task may be trained again."""
    interrupt = Interrupt()
    with pytest.raises(ValueError, match="told to fail"):
        train("run", "updates", callbacks=[interrupt])
    assert not {"batch_loss", "batch_evaluation"} & set(interrupt.task.__dict__)
    assert "step" not in interrupt.optimizer.__dict__
    assert all(p.grad is None for p in interrupt.task.parameters())


def test_what_is_not_captured_is_said_once(train, caplog):
    caplog.set_level("INFO")
    train("run", "updates", name="adadelta")
    assert [m for m in caplog.messages if "not captured" in m] == [
        "Updates by Adadelta are not captured as a CUDA graph: it is not fused or has hooks, or gradients are scaled."
    ]


@pytest.mark.parametrize("hook", ["register_step_pre_hook", "register_step_post_hook"])
def test_an_optimizer_with_hooks_steps_itself(hook):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], fused=True)
    assert suits(optimizer)
    getattr(optimizer, hook)(print)
    assert not suits(optimizer)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_may_be_clipped(train, precision):
    """In mixed precision an optimizer that clips is not fused."""
    options = {"epochs": 2, "gradient_clip_val": 0.1, "precision": precision}
    assert_same(train("ours", "updates", **options)[1], train("plain", "steps", **options)[1])


@pytest.mark.parametrize(  # an epoch has five steps, the switch is at step 10
    ("before", "after", "step"),
    [("updates", "steps", 7), ("steps", "updates", 13), ("updates", "updates", 7), ("updates", "updates", 13)],
)
def test_one_goes_on_from_the_other_s_checkpoint(train, fit, tmp_path, before, after, step):
    _, whole = train("whole", "steps")
    with pytest.raises(Preempted):
        train("cut", before, callbacks=[fit.SignalAt(step)])
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    groups = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert not any(group.get("capturable") for group in groups)
    assert_same(whole, train("cut", after, ckpt_path=str(last))[1])


def test_a_skipped_step_changes_nothing(train, tmp_path):
    guards = [NanGuard(str(tmp_path), on_nan="skip") for _ in range(2)]
    _, ours = train("ours", "updates", callbacks=[guards[0], Poison()], epochs=2)
    _, plain = train("plain", "steps", callbacks=[guards[1], Poison()], epochs=2)
    assert_same(ours, plain)
    assert [guard.skipped for guard in guards] == [1, 1]
    assert all(torch.isfinite(value).all() for value in ours.model.state_dict().values())


def test_nan_leaves_the_same_evidence(train, tmp_path):
    reports = []
    for captured in ("updates", "nothing"):
        guard = NanGuard(str(tmp_path / captured))
        with pytest.raises(UserError, match="step 3 is not finite"):
            train(captured, captured, callbacks=[guard, Poison()])
        reports.append(json.loads(guard.report.read_text()))
    ours, plain = reports
    assert ours.pop("largest_gradients").keys() == plain.pop("largest_gradients").keys()
    assert ours == plain
    assert len(ours["files"]) == 4


def test_an_average_of_the_weights_is_that_of_plain_steps(train, monkeypatch):
    ours, plain = MovingAverage(0.9), MovingAverage(0.9)
    _, task = train("ours", "updates", callbacks=[ours], epochs=2)
    monkeypatch.setattr("famseg.callbacks.ema.ReplayedStep", type(None))
    assert_same(task, train("plain", "updates", callbacks=[plain], epochs=2)[1])
    assert ours._average_model.n_averaged == plain._average_model.n_averaged == 10


class Gradients(Callback):
    """The norms of each step, as the step has measured them and anew."""

    def __init__(self):
        self.pairs, self.kept = [], 0

    def on_before_backward(self, trainer, task, loss):
        self.kept += any(p.grad is not None for p in trained(task))

    def on_after_backward(self, trainer, task):
        gradients = [p.grad for p in trained(task) if p.grad is not None]
        self.pairs.append((task.batch_loss.largest.clone(), largest_of(gradients)))


def test_norms_are_those_of_the_gradients_before_they_are_clipped(train):
    seen = Gradients()
    train("ours", "updates", callbacks=[seen], epochs=1, gradient_clip_val=0.01)
    assert len(seen.pairs) == 5
    assert seen.kept == 4  # nothing zeroes what will be overwritten
    assert all(torch.equal(ours, plain) for ours, plain in seen.pairs)
