"""The change of the optimizer within a run, and the resume across it."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging

from famseg import schedules
from famseg.callbacks import MovingAverage
from famseg.checkpoint import METADATA_KEY
from famseg.errors import UserError
from famseg.phases import Switch


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_weights(task, other):
    pairs = zip(task.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == name2 and torch.equal(value, value2) for (name, value), (name2, value2) in pairs)


def test_switch_changes_optimizer_and_goes_on_at_the_rate(fit, tmp_path):
    trainer, _ = fit(decay=schedules.poly)
    assert type(trainer.optimizers[0]) is torch.optim.SGD
    table = rows(tmp_path / "run")
    assert [row["optimizer"] for row in table] == ["adamw", "adamw", "sgd", "sgd"]
    rates = [float(row["lr"]) for row in table]
    assert rates == pytest.approx([6.25e-4 + (6.25e-6 - 6.25e-4) * epoch / 4 for epoch in range(4)])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_before_at_and_after_the_switch_is_bit_identical(fit, tmp_path, stop):
    _, whole = fit("whole")
    with pytest.raises(fit.Stopped):
        fit("cut", stop_after=stop)
    _, resumed = fit("cut", ckpt_path=str(tmp_path / "cut" / "checkpoints" / "last.ckpt"))
    assert same_weights(whole, resumed)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()


def test_a_naive_swap_is_noticed(fit, tmp_path):
    """Counter-test: a swap of the optimizer that no checkpoint knows of cannot be resumed."""
    _, _ = fit("whole")
    path = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["famseg_progress"]["phase"] = 0  # as if AdamW were still there
    torch.save(content, path)
    with pytest.raises((KeyError, ValueError)):
        fit("whole", epochs=6, ckpt_path=str(path))


def test_checkpoint_is_plain_and_describes_itself(fit, tmp_path):
    _, task = fit(epochs=2)
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    progress = content["famseg_progress"]
    assert (progress["phase"], progress["losses"]) == (task.phase, task.losses)
    data = content[METADATA_KEY]["data"]
    assert data["classes"] == {"BG": 0, "FL": 1, "FB": 2}
    assert data["size"] == [32, 32]
    assert 0 < data["mean"] < 1


def test_unreached_switch_is_said(fit, caplog):
    with caplog.at_level("INFO"):
        fit(epochs=2, switch=Switch(fit.sgd, at=150))
    assert "switch to sgd at epoch 150 is not reached" in caplog.text


def test_run_without_a_switch_keeps_its_optimizer(fit):
    trainer, task = fit(epochs=2, switch=None)
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
    assert task.phase == 0


def test_vectors_do_not_decay(fit):
    trainer, _ = fit(epochs=1, switch=None)
    decays = {
        p.ndim > 1: group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]
    }
    assert decays == {True: 0.01, False: 0.0}


def test_weight_averaging_that_sets_rates_is_refused_with_a_switch(fit):
    with pytest.raises(UserError, match="switch=none"):
        fit(epochs=1, callbacks=[StochasticWeightAveraging(swa_lrs=1e-3)])


def test_moving_average_goes_across_the_switch_and_resumes(fit, tmp_path):
    def average():
        return [MovingAverage(decay=0.9)]

    _, whole = fit("whole", callbacks=average())
    with pytest.raises(fit.Stopped):
        fit("cut", stop_after=3, callbacks=average())
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    _, resumed = fit("cut", ckpt_path=last, callbacks=average())
    assert same_weights(whole, resumed)


@pytest.mark.parametrize(
    "options",
    [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.5}, {"precision": "bf16-mixed"}, {"deterministic": True}],
)
def test_options_compose_with_the_switch_and_a_resume(fit, tmp_path, options):
    _, whole = fit("whole", **options)
    with pytest.raises(fit.Stopped):
        fit("cut", stop_after=2, **options)
    _, resumed = fit("cut", ckpt_path=str(tmp_path / "cut" / "checkpoints" / "last.ckpt"), **options)
    assert same_weights(whole, resumed)


def test_an_epoch_without_validation_has_no_scores(fit, tmp_path):
    """Whole, and resumed after such an epoch; the best checkpoints are of validated epochs."""
    fit("whole", check_val_every_n_epoch=2, keep_best=3)
    with pytest.raises(fit.Stopped):
        fit("cut", stop_after=3, check_val_every_n_epoch=2)
    fit("cut", ckpt_path=str(tmp_path / "cut" / "checkpoints" / "last.ckpt"), check_val_every_n_epoch=2)
    table = rows(tmp_path / "whole")
    assert [row["val/miou"] != "" for row in table] == [False, True, False, True]
    assert all(float(row["train/loss"]) > 0 for row in table)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()
    kept = {path.name for path in (tmp_path / "whole" / "checkpoints").glob("best-*")}
    assert kept == {"best-epoch=001.ckpt", "best-epoch=003.ckpt"}


@pytest.mark.parametrize(
    ("precision", "clip", "fused"),
    [("32-true", 1.0, True), ("bf16-mixed", None, True), ("bf16-mixed", 1.0, False), ("16-mixed", None, False)],
)
def test_steps_take_one_pass_where_lightning_can_clip(fit, monkeypatch, precision, clip, fused):
    trainer, task = fit(epochs=1)
    monkeypatch.setattr(type(trainer), "precision", precision)
    trainer.gradient_clip_val = clip
    assert bool(task.configure_optimizers().defaults["fused"]) is fused
