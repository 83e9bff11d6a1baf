"""What `callbacks=ema` validates is what it keeps, tests and hands on."""

import lightning
import pytest
import torch

from famseg.callbacks import MovingAverage, overlays
from famseg.errors import UserError


class Seen(lightning.pytorch.callbacks.Callback):
    """The network's weights at the beginning of the test."""

    def __init__(self):
        self.tested = None

    def on_test_start(self, trainer, task):
        self.tested = copy(task)


def copy(task):
    return copy_of(task.model)


def copy_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_test_scores_the_average_that_was_validated(fit):
    seen = Seen()
    trainer, task = fit(epochs=3, switch=None, callbacks=[MovingAverage(decay=0.9), seen])
    best = trainer.checkpoint_callback.best_model_path
    content = torch.load(best, weights_only=True)
    average, current = (
        {name.removeprefix("model."): value for name, value in content[key].items() if name.startswith("model.")}
        for key in ("state_dict", "current_model_state")
    )
    assert not equal(average, current)
    trainer.test(task, datamodule=trainer.datamodule, ckpt_path=best, weights_only=True, verbose=False)
    assert equal(seen.tested, average)


def test_overlays_show_the_average_that_is_validated(fit, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(overlays, "panels", lambda predictor, *_: drawn.append(copy_of(predictor.model)) or [])
    monkeypatch.setattr(overlays, "sheet", lambda *_: None)
    monkeypatch.setattr(overlays, "write", lambda *_: None)
    fit(epochs=1, switch=None, callbacks=[MovingAverage(decay=0.9)])
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert equal(drawn[-1], {name.removeprefix("model."): value for name, value in kept.items()})


class Steps(lightning.pytorch.callbacks.Callback):
    """The weights after each step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.weights.append(copy(task))


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_the_average_is_that_of_every_step(fit, tmp_path, precision):
    steps = Steps()
    fit(epochs=1, switch=None, callbacks=[steps, MovingAverage(decay=0.9)], precision=precision)
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in steps.weights[0].items():
        if value.is_floating_point():  # counters of norms have no mean
            for each in steps.weights[1:]:
                value = 0.9 * value + 0.1 * each[name]
            torch.testing.assert_close(content[f"model.{name}"], value, msg=name)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_an_average_that_would_not_move_is_refused(fit, precision):
    with pytest.raises(UserError, match=f"precision={precision} the average would never move"):
        fit(epochs=1, callbacks=[MovingAverage()], precision=precision)
