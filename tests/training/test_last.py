"""When last.ckpt is written, and that a run which lost epochs since ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from famseg import resume
from famseg.callbacks import last
from famseg.checkpoint_io import LAST, DurableCheckpointIO
from famseg.signals import Preempted

STEPS = 5  # of an epoch
RARELY = 1e9  # seconds


@pytest.fixture
def written(monkeypatch):
    """Steps at which last.ckpt was written."""
    steps, save = [], DurableCheckpointIO.save_checkpoint

    def recorded(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if Path(path).name == LAST:
            steps.append(checkpoint["global_step"])

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", recorded)
    return steps


class Clock(Callback):
    """A clock by which every epoch takes the same time."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 1000.0

    def on_train_epoch_start(self, trainer, task):
        self.now += self.seconds

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("seconds", "every_s", "epochs"),
    [
        (0, None, [1, 6]),  # None: the default
        (9.9, 10, [1, 3, 5, 6]),
        (10, None, [1, 2, 3, 4, 5, 6]),
        (4, 10, [1, 4, 6]),
        (4, 12.5, [1, 5, 6]),
        (0, 0, [1, 2, 3, 4, 5, 6]),
        (60, float("inf"), [1, 6]),
    ],
)
def test_it_is_written_when_it_is_time_and_after_the_first_and_the_last_epoch(
    fit, written, monkeypatch, seconds, every_s, epochs
):
    clock = Clock(seconds)
    monkeypatch.setattr(last, "time", clock)
    fit(epochs=6, callbacks=[clock], save_every_s=10 if every_s is None else every_s)
    assert written == [STEPS * epoch for epoch in epochs]


class Enough(Callback):
    """Ends the training early."""

    def on_train_epoch_end(self, trainer, task):
        trainer.should_stop = trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("callbacks", "options", "steps"), [([Enough()], {}, [STEPS, 3 * STEPS]), ([], {"max_steps": 8}, [STEPS, 8])]
)
def test_the_last_epoch_is_written_whatever_ends_the_training(fit, written, callbacks, options, steps):
    fit(epochs=6, callbacks=callbacks, save_every_s=RARELY, **options)
    assert written == steps


class SignalIn(Callback):
    """Asks the run to stop in a hook of its third epoch."""

    def __init__(self, hook):
        setattr(self, hook, self.ask)

    def ask(self, trainer, *_):
        if trainer.current_epoch == 2 and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("hook", "steps"),
    [
        ("on_train_epoch_start", 2 * STEPS + 1),  # too late for the end of the epoch before
        ("on_train_batch_start", 2 * STEPS + 1),
        ("on_validation_batch_end", 3 * STEPS),
        ("on_validation_end", 3 * STEPS),
        ("on_train_epoch_end", 3 * STEPS),
    ],
)
def test_a_run_that_is_asked_to_stop_never_leaves_with_an_outdated_checkpoint(fit, written, tmp_path, hook, steps):
    _, whole = fit("whole", epochs=6)
    written.clear()
    with pytest.raises(Preempted):
        fit("cut", epochs=6, callbacks=[SignalIn(hook)], save_every_s=RARELY)
    assert written == [STEPS, steps]
    _, resumed = fit("cut", epochs=6, ckpt_path=str(tmp_path / "cut" / "checkpoints" / LAST), save_every_s=RARELY)
    assert_same(tmp_path, whole, resumed)


def test_a_run_of_one_step_an_epoch_leaves_at_the_next_end_of_an_epoch(fit, written):
    """Where no step ends within an epoch."""
    with pytest.raises(Preempted):
        fit(epochs=6, data={"batch_size": 20}, callbacks=[SignalIn("on_train_epoch_start")], save_every_s=RARELY)
    assert written == [1, 3]


def test_a_resumed_run_that_is_asked_at_once_leaves_at_once(fit, written, tmp_path):
    with pytest.raises(fit.Stopped):
        fit(epochs=6, stop_after=2)
    point = str(tmp_path / "run" / "checkpoints" / LAST)
    with pytest.raises(Preempted):
        fit(epochs=6, ckpt_path=point, callbacks=[SignalIn("on_train_epoch_start")], save_every_s=RARELY)
    assert written == [STEPS, 2 * STEPS]


def assert_same(folder, whole, resumed):
    states = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (folder / "whole" / "metrics.csv").read_bytes() == (folder / "cut" / "metrics.csv").read_bytes()
    rows = [(folder / each / "timing.csv").read_text().splitlines() for each in ("whole", "cut")]
    assert [row.split(",")[0] for row in rows[0]] == [row.split(",")[0] for row in rows[1]]
    pictures = [sorted(path.name for path in (folder / each / "overlays").iterdir()) for each in ("whole", "cut")]
    assert pictures[0] == pictures[1]
    best = [torch.load(folder / each / "checkpoints" / "best.ckpt", weights_only=True) for each in ("whole", "cut")]
    assert best[0]["epoch"] == best[1]["epoch"]
    assert all(torch.equal(value, best[1]["state_dict"][name]) for name, value in best[0]["state_dict"].items())


@pytest.mark.parametrize("stop_after", [pytest.param(2, marks=pytest.mark.slow), 3, 5])  # the switch is at 3
@pytest.mark.parametrize("newest", [False, True])
def test_a_run_that_lost_epochs_ends_the_same(fit, tmp_path, stop_after, newest):
    """From last.ckpt, of the first epoch, or from what resume=true takes, which may be best.ckpt."""
    _, whole = fit("whole", epochs=6)
    with pytest.raises(fit.Stopped):
        fit("cut", epochs=6, stop_after=stop_after, save_every_s=RARELY)
    point = str(tmp_path / "cut" / "checkpoints" / LAST)
    if newest:
        point = resume.resume_point(str(tmp_path / "cut"), True)
    _, resumed = fit("cut", epochs=6, ckpt_path=point, save_every_s=RARELY)
    assert_same(tmp_path, whole, resumed)


def test_a_best_checkpoint_is_as_good_to_go_on_from(fit, monkeypatch, tmp_path):
    """Every epoch the best so far; nothing that was saved is lost."""
    monkeypatch.setattr(
        "famseg.task.SegmentationTask.on_validation_epoch_end",
        lambda task: task.log("val/miou", torch.tensor(float(task.current_epoch))),
    )
    _, whole = fit("whole", epochs=6)
    with pytest.raises(fit.Stopped):
        fit("cut", epochs=6, stop_after=4, save_every_s=RARELY)
    point = resume.resume_point(str(tmp_path / "cut"), True)
    assert point.endswith("best.ckpt")
    assert len(torch.load(point, weights_only=True)["famseg_progress"]["losses"]) == 4
    _, resumed = fit("cut", epochs=6, ckpt_path=point, save_every_s=RARELY)
    assert_same(tmp_path, whole, resumed)


@pytest.mark.parametrize("decision", [True, False])
def test_all_devices_do_as_one_of_them_wants(monkeypatch, tmp_path, decision):
    saved = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda *_: saved.append(True))
    strategy = SimpleNamespace(reduce_boolean_decision=lambda own, all: decision and not all, checkpoint_io=None)
    trainer = SimpleNamespace(
        strategy=strategy, should_stop=False, current_epoch=1, max_epochs=9, global_step=5, max_steps=-1, callbacks=[]
    )
    last.LastCheckpoint(tmp_path, RARELY).on_train_epoch_end(trainer, None)
    assert bool(saved) is decision


@pytest.mark.slow
def test_two_processes_save_together_and_leave_together(tmp_path):
    """Though only the second one's clock says that it is time, and only it is asked to stop."""
    program = Path(__file__).with_name("ddp_last_program.py")
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 75, done.stderr[-3000:]
    assert json.loads((tmp_path / "written.json").read_text()) == [1, 2, 4]
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["epoch"] == 3
