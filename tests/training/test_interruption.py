"""Signals, damaged files, full disks, and losses that are no numbers."""

import errno
import gc
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import lightning
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from famseg import resume, run
from famseg.callbacks import MovingAverage, NanGuard
from famseg.checkpoint_io import LAST, DurableCheckpointIO, damage
from famseg.errors import UserError
from famseg.signals import EXIT_RESUMABLE, STOPS, Preempted, leaving


@pytest.mark.parametrize("step", [1, 4, 5, 12])  # an epoch has five steps: first, last, first of the next, after switch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_resumed_run_is_the_same(fit, tmp_path, step, number, fault):
    fault(
        "SIGTERM or SIGUSR1, in and between epochs",
        "saves, exit code 75, status resumable; resumed: same weights and metrics.csv",
    )
    _, whole = fit("whole")
    with pytest.raises(Preempted) as left:
        fit("cut", callbacks=[fit.SignalAt(step, number)])
    assert left.value.code == EXIT_RESUMABLE
    _, resumed = fit("cut", ckpt_path=str(tmp_path / "cut" / "checkpoints" / "last.ckpt"))
    states = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_signal_does_not_cut_a_step_of_several_batches(fit, tmp_path, step):
    """The gradients that are accumulated so far are in no checkpoint."""
    _, whole = fit("whole", accumulate_grad_batches=2)
    with pytest.raises(Preempted):
        fit("cut", callbacks=[fit.SignalAt(step)], accumulate_grad_batches=2)
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    _, resumed = fit("cut", ckpt_path=last, accumulate_grad_batches=2)
    states = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()


@pytest.mark.parametrize("step", [1, 6, 12])
def test_a_signal_leaves_no_callback_without_its_step(fit, tmp_path, step):
    """Such as the average of the weights, which comes after the others in conf/callbacks/ema.yaml."""
    _, whole = fit("whole", callbacks=[MovingAverage(0.9)])
    with pytest.raises(Preempted):
        fit("cut", callbacks=[fit.SignalAt(step), MovingAverage(0.9)])
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    _, resumed = fit("cut", ckpt_path=last, callbacks=[MovingAverage(0.9)])
    states = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()


def test_a_signal_in_the_test_stage(tmp_path, fault):
    """Training is over then, and Lightning answers in its own way."""
    fault("SIGTERM while the best checkpoint is tested", "exit code 75, status resumable; resumed: tests again")
    with pytest.raises(Preempted) as left, run._status(tmp_path):
        raise SIGTERMException
    assert left.value.code == EXIT_RESUMABLE
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "resumable"


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_outside_the_training(tmp_path, number, caplog):
    """As while data is read or the best checkpoint is tested: at once, and handlers are as before."""
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as left, leaving(), run._status(tmp_path):
        os.kill(os.getpid(), number)
    assert left.value.code == EXIT_RESUMABLE
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "resumable"
    assert "before there was anything to save" in caplog.text
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", STOPS)
def test_a_second_signal_does_not_cut_the_record_short(tmp_path, number, monkeypatch):
    monkeypatch.setattr(run, "finish_wandb", lambda exit_code: os.kill(os.getpid(), number))
    with pytest.raises(Preempted), leaving(), run._status(tmp_path):
        raise Preempted
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "resumable"


def test_a_signal_while_the_end_is_recorded(tmp_path, monkeypatch):
    """As while wandb sends what is left."""
    monkeypatch.setattr(run, "finish_wandb", lambda exit_code: exit_code or os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted), leaving(), run._status(tmp_path):
        pass
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "resumable"


def test_the_handlers_of_others_stay():
    """Such as submitit's, and those of a block around this one."""
    came = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with leaving(), leaving():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [signal.SIGUSR1]


def test_a_thread_trains_without_signals(fit):
    """Which it does not get: a notebook's or a server's."""

    def train():
        with leaving():
            fit(epochs=1)

    before = [signal.getsignal(number) for number in STOPS]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()
    assert [signal.getsignal(number) for number in STOPS] == before


@pytest.mark.parametrize("trained", [False, True])
def test_ctrl_c_says_how_to_go_on(tmp_path, caplog, trained):
    if trained:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / LAST).touch()
    with pytest.raises(KeyboardInterrupt), run._status(tmp_path):
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "resumable"
    assert ("resume=true goes on from" in caplog.text) is trained


@pytest.mark.parametrize("step", [None, 1])
def test_signals_are_given_back(fit, step):
    before = [signal.getsignal(number) for number in STOPS]
    with nullcontext() if step is None else pytest.raises(Preempted):
        fit(epochs=1, callbacks=[] if step is None else [fit.SignalAt(step)])
    gc.collect()
    assert [signal.getsignal(number) for number in STOPS] == before


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(fit, tmp_path, caplog, fault):
    fault("a flipped byte in last.ckpt", "warning; the newest of the others is used")
    _, task = fit(epochs=3)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()  # which may be as new
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    record = content.find(task.model.layers[0].weight.detach().numpy().tobytes())
    content[record + 5] ^= 0xFF  # torch.load would not notice
    last.write_bytes(content)
    assert "checksum" in damage(last)
    point = resume.resume_point(str(tmp_path / "run"), True)
    assert point.endswith("before_last.ckpt")
    assert "last.ckpt is damaged" in caplog.text
    assert len(torch.load(point, weights_only=True)["famseg_progress"]["losses"]) == 2


@pytest.mark.parametrize(
    ("steps", "newest"),
    [
        ({"last": 10, "best": 5, "before_last": 8}, "last"),
        ({"last": 10, "best": 10, "before_last": 8}, "last"),
        ({"last": 10, "best": 15, "before_last": 8}, "best"),  # of an epoch after which last.ckpt was not written
        ({"last": None, "best": 5, "before_last": 8}, "before_last"),
        ({"last": None, "best": 10, "before_last": 8}, "best"),
        ({"last": 10, "best": None, "before_last": None}, "last"),
        ({"best": 5}, "best"),
    ],
)
def test_a_run_goes_on_from_its_newest_sound_checkpoint(tmp_path, steps, newest):
    (tmp_path / "checkpoints").mkdir()
    for name, step in steps.items():
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        torch.save({"global_step": step, "famseg": {"model": {}, "data": {}}}, path)
        if step is None:
            path.write_bytes(path.read_bytes()[:100])
    assert resume.resume_point(str(tmp_path), True) == str(tmp_path / "checkpoints" / f"{newest}.ckpt")


def test_only_damaged_checkpoints_end_the_resume(fit, tmp_path, fault):
    fault("all checkpoints truncated", "one sentence; nothing is overwritten")
    fit(epochs=2)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        resume.resume_point(str(tmp_path / "run"), True)


def test_a_checkpoint_of_another_network_is_refused(fit, tmp_path, fault):
    fault("a checkpoint of another network", "refused; the keys that differ are named")
    fit(epochs=1)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["famseg"]["model"] = {"_target_": "famseg.models.FAMSeg", "directions": 2, "rank": 16}
    torch.save(content, path)
    other = {"_target_": "famseg.models.FAMSeg", "directions": 4, "rank": 16}
    with pytest.raises(UserError, match=r"of another network; directions differ"):
        resume.resume_point(str(tmp_path / "run"), True, other)


def test_nothing_to_resume_starts_anew(tmp_path):
    assert resume.resume_point(str(tmp_path), True) is None
    assert resume.resume_point(str(tmp_path), False) is None


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, fault):
    fault("disk full during a checkpoint", "one sentence; the checkpoint before is intact, no partial file is left")
    io, path = DurableCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"x": torch.zeros(3)}, path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*resume=true"):
        io.save_checkpoint({"x": torch.ones(3)}, path)
    assert damage(path) is None
    assert torch.load(path)["x"].sum() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["model=famseg_n", "resume=true"], True),
        (["resume=true", "trainer.progress=false", "model=famseg_n", "trainer.save_every_s=0"], True),
        (["model=famseg_t", "resume=true"], False),
        (["resume=true"], False),
    ],
)
def test_the_same_command_finds_its_folder(tmp_path, overrides, found):
    record = tmp_path / "2026-01-01_00-00-00" / ".hydra" / "overrides.yaml"
    record.parent.mkdir(parents=True)
    record.write_text("- model=famseg_n\n- resume=false\n")
    assert (resume.run_folder(str(tmp_path), True, overrides) == str(record.parents[1])) == found
    assert resume.run_folder(str(tmp_path), False, overrides) != str(record.parents[1])


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path):
    folders = set()
    for _ in range(20):
        resume._now.cache_clear()
        folders.add(resume.run_folder(str(tmp_path), False, []))
    assert len(folders) == 20
    assert resume.run_folder(str(tmp_path), False, []) in folders  # a process keeps its own


class Poison(lightning.pytorch.callbacks.Callback):
    """Makes the images of one step infinite."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == 3:
            batch["image"].fill_(torch.inf)


class PoisonOfLastStep(lightning.pytorch.callbacks.Callback):
    """Makes the last batch of the first epoch infinite."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.is_last_batch:
            batch["image"].fill_(torch.inf)


def test_nan_stops_and_keeps_the_evidence(fit, tmp_path, fault):
    fault(
        "Inf in a batch, on_nan=stop",
        "stops before weights change (GPU: are validated or saved); nan.json has files, step, gradients",
    )
    guard = NanGuard(str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"step 3 is not finite.*on_nan=skip"):
        fit(callbacks=[guard, Poison()])
    report = json.loads((tmp_path / "run" / "nan.json").read_text())
    assert (report["epoch"], report["step"], len(report["files"])) == (0, 3, 4)
    assert "model.layers.0.weight" in report["largest_gradients"]


@pytest.mark.parametrize("after", ["a step", "the last step of an epoch"])
def test_late_verdict_names_the_same_batch_before_anything_is_saved(fit, tmp_path, monkeypatch, after):
    """What a GPU does: step n is judged in step n + 1, or before validation and checkpoints."""
    prompt, late = NanGuard(str(tmp_path / "prompt")), NanGuard(str(tmp_path / "late"))
    poison = Poison() if after == "a step" else PoisonOfLastStep()
    with pytest.raises(UserError):
        fit(callbacks=[prompt, poison])
    saved = len(list(tmp_path.rglob("*.ckpt")))
    monkeypatch.setattr("famseg.callbacks.nan_guard.is_late", lambda task: True)
    with pytest.raises(UserError, match="is not finite"):
        fit(callbacks=[late, poison])
    assert late.report.read_text() == prompt.report.read_text()
    assert len(list(tmp_path.rglob("*.ckpt"))) == saved


def test_nan_is_skipped_and_counted(fit, tmp_path, fault):
    fault("Inf in a batch, on_nan=skip", "step dropped and counted; weights and batch statistics stay finite")
    guard = NanGuard(str(tmp_path / "run"), on_nan="skip")
    _, task = fit(callbacks=[guard, Poison()])
    assert guard.skipped == 1
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())


class PoisonOfFirstPart(lightning.pytorch.callbacks.Callback):
    """Makes the images of the first of two batches of a step infinite."""

    def __init__(self):
        self.files = set()

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if batch_idx == 2:
            batch["image"].fill_(torch.inf)
            self.files = {trainer.datamodule.source.names[int(index)] for index in batch["index"]}


def test_evidence_has_the_files_of_all_batches_of_a_step(fit, tmp_path):
    poison = PoisonOfFirstPart()
    with pytest.raises(UserError, match="is not finite"):
        fit(callbacks=[NanGuard(str(tmp_path / "run")), poison], accumulate_grad_batches=2)
    report = json.loads((tmp_path / "run" / "nan.json").read_text())
    assert len(report["files"]) == 8
    assert poison.files <= set(report["files"])


def test_statistics_are_those_before_all_batches_of_a_skipped_step(fit, tmp_path):
    guard = NanGuard(str(tmp_path / "run"), on_nan="skip")
    _, task = fit(callbacks=[guard, PoisonOfFirstPart()], accumulate_grad_batches=2, epochs=1)
    assert guard.skipped == 1
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())


def test_unknown_reaction_is_refused(tmp_path):
    with pytest.raises(UserError, match="on_nan=ignore"):
        NanGuard(str(tmp_path), on_nan="ignore")
