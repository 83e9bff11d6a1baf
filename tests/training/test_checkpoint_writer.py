"""Checkpoints written beside the training: what is in them, who waits for them, and who is told of an error."""

import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from famseg import resume
from famseg.callbacks import best, last
from famseg.checkpoint_io import BEFORE_LAST, BEST, LAST, DurableCheckpointIO, damage, step_of
from famseg.checkpoint_writer import BackgroundCheckpointIO, beside_training, snapshot
from famseg.errors import UserError
from famseg.signals import Preempted

STEPS = 5  # of an epoch


class Writer:
    """Stands in for a slow disk: writes begin and end when a test lets them."""

    def __init__(self, write):
        self.write, self.may = write, threading.Event()
        self.began, self.ended, self.threads = [], [], []

    def __call__(self, io, checkpoint, path, storage_options=None):
        self.began.append(os.path.basename(path))
        self.threads.append(threading.current_thread())
        assert self.may.wait(20)
        self.write(io, checkpoint, path)
        self.ended.append(os.path.basename(path))


@pytest.fixture
def writer(monkeypatch):
    writer = Writer(DurableCheckpointIO.save_checkpoint)
    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", lambda *args, **kwargs: writer(*args, **kwargs))
    yield writer
    writer.may.set()


@pytest.fixture
def slow(monkeypatch):
    """Every write takes a while; steps of training and validation are faster."""
    write = DurableCheckpointIO.save_checkpoint

    def slowly(io, checkpoint, path, storage_options=None):
        time.sleep(0.15)
        write(io, checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(DurableCheckpointIO, "save_checkpoint", slowly)
        yield patch


@pytest.fixture
def full(monkeypatch):
    """A disk that is full from the n-th file on."""

    def start(n):
        flush, files = os.fsync, []

        def fsync(number):
            if os.readlink(f"/proc/self/fd/{number}").endswith(".ckpt.partial"):
                files.append(number)
                if len(files) >= n:
                    raise OSError(errno.ENOSPC, "No space left on device")
            flush(number)

        monkeypatch.setattr(os, "fsync", fsync)

    return start


@contextmanager
def beside(io):
    with beside_training(SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=io))):
        yield


def later(event, seconds=0.1):
    timer = threading.Timer(seconds, event.set)
    timer.start()
    return timer


def state(device="cpu"):
    """Of a network and its optimizer after a step, as Lightning takes it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.randn(2, 3, 8, 8, device=device)).square().mean().backward()
    optimizer.step()
    losses, scores = [0.5, 0.25], {"best": torch.tensor(0.7, device=device)}
    content = {
        "global_step": 1,
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"best": {"best_k_models": scores, "path": None}, "range": (1, 2.5)},
        "losses": losses,
    }
    return content, network, optimizer


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_file_holds_the_state_at_the_moment_it_was_saved(tmp_path, writer, device):
    """Whatever is changed in place, replaced or added before it is written."""
    content, network, optimizer = state(device)
    want = copy.deepcopy(content)
    io = BackgroundCheckpointIO()
    with beside(io):
        io.save_checkpoint(content, tmp_path / LAST)
    network(torch.randn(2, 3, 8, 8, device=device)).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        for value in content["state_dict"].values():
            value.add_(1)
    content["losses"].append(0.1)
    content["callbacks"]["best"]["best_k_models"]["worse"] = content["callbacks"]["best"]["best_k_models"].pop("best")
    content["optimizer_states"][0]["param_groups"][0]["lr"] = 7.0
    writer.may.set()
    io.wait()
    assert_same(torch.load(tmp_path / LAST, weights_only=True), want)


def assert_same(there, want):
    assert type(there) is type(want)
    if isinstance(want, torch.Tensor):
        assert there.stride() == want.stride()
        assert torch.equal(there, want.cpu())
    elif isinstance(want, dict):
        assert list(there) == list(want)
        assert getattr(there, "_metadata", None) == getattr(want, "_metadata", None)
        for key, value in want.items():
            assert_same(there[key], value)
    elif isinstance(want, list | tuple):
        assert len(there) == len(want)
        for one, other in zip(there, want, strict=True):
            assert_same(one, other)
    else:
        assert there == want


def test_the_file_is_the_same_as_one_that_is_waited_for(tmp_path):
    content, *_ = state()
    for name, io in (("a", DurableCheckpointIO()), ("b", BackgroundCheckpointIO())):
        (tmp_path / name).mkdir()
        with beside(io):
            io.save_checkpoint(content, tmp_path / name / LAST)
    io.wait()
    assert (tmp_path / "a" / LAST).read_bytes() == (tmp_path / "b" / LAST).read_bytes()


def test_a_snapshot_shares_no_memory():
    weight = torch.zeros(3)
    copied = snapshot({"a": [weight, (weight,)], "b": {"c": weight}})
    weight.fill_(1)
    assert all(not value.any() for value in (*copied["a"][:1], *copied["a"][1], copied["b"]["c"]))


def test_a_snapshot_has_arrived_when_it_is_taken():
    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            said.append((options or {}).get("non_blocking", False))
            return function(*arguments, **(options or {}))

    said = []
    weight = torch.zeros(3)
    with Copies():
        snapshot(weight)
    assert said
    assert not any(said)


def test_one_file_at_a_time_in_order(tmp_path, writer):
    """So that there is one copy at a time in memory."""
    io = BackgroundCheckpointIO()
    with beside(io):
        io.save_checkpoint({"x": torch.zeros(3)}, tmp_path / BEST)
        later(writer.may)
        io.save_checkpoint({"x": torch.ones(3)}, tmp_path / LAST)
        assert writer.ended[0] == BEST
        io.save_checkpoint({"x": torch.ones(3) * 2}, tmp_path / LAST)
    io.wait()
    assert writer.began == writer.ended == [BEST, LAST, LAST]
    assert [torch.load(tmp_path / name)["x"][0] for name in (BEST, BEFORE_LAST, LAST)] == [0, 1, 2]
    for thread in writer.threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("inside", [False, True])
def test_only_what_is_saved_beside_the_training_returns_before_it_is_written(tmp_path, writer, inside):
    """A callback of a user's reads at once what it has saved."""
    io = BackgroundCheckpointIO()
    timer = later(writer.may)
    if inside:
        with beside(io):
            io.save_checkpoint({}, tmp_path / "own.ckpt")
    else:
        io.save_checkpoint({}, tmp_path / "own.ckpt")
    assert writer.ended == ([] if inside else ["own.ckpt"])
    timer.join()
    io.teardown()
    assert writer.ended == ["own.ckpt"]


@pytest.mark.parametrize("what", ["load", "remove", "save", "teardown", "fork"])
def test_who_waits(tmp_path, writer, what):
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    old.touch()
    io = BackgroundCheckpointIO()
    with beside(io):
        io.save_checkpoint({"x": 1}, new)
    while not writer.began:
        time.sleep(0.001)
    assert not new.exists()
    later(writer.may)
    if what == "load":
        assert io.load_checkpoint(new, weights_only=True) == {"x": 1}
    elif what == "remove":
        io.remove_checkpoint(old)
        assert not old.exists()
    elif what == "save":
        io.save_checkpoint({}, old)
    elif what == "teardown":
        io.teardown()
    elif (child := os.fork()) == 0:  # a loader process
        os._exit(0 if new.exists() else 1)
    else:
        assert os.waitpid(child, 0)[1] == 0
    assert new.exists()
    io.wait()


@pytest.mark.parametrize(
    "come",
    [
        lambda io, path: io.save_checkpoint({}, path.with_name(BEST)),
        lambda io, path: io.wait(),
        lambda io, path: io.teardown(),
        lambda io, path: io.load_checkpoint(path),
        lambda io, path: io.remove_checkpoint(path),
    ],
    ids=["save", "wait", "teardown", "load", "remove"],
)
def test_a_full_disk_is_told_to_whoever_comes_next_and_once(tmp_path, full, come):
    io, path = BackgroundCheckpointIO(), tmp_path / LAST
    io.save_checkpoint({"x": torch.zeros(3)}, path)
    full(1)
    with beside(io):
        io.save_checkpoint({"x": torch.ones(3)}, path)
        with pytest.raises(UserError, match=r"No space left.*before it is intact.*resume=true"):
            come(io, path)
    io.teardown()
    assert torch.load(path)["x"].sum() == 0
    assert damage(path) is None
    assert [each.name for each in tmp_path.iterdir()] == [LAST]


# whole runs -----------------------------------------------------------------------------------------------------------


class Watch(Callback):
    """After which steps last.ckpt was on the disk."""

    def __init__(self, folder):
        self.folder, self.steps = folder / "checkpoints", []

    def on_train_batch_end(self, trainer, task, *_):
        self.steps.append((trainer.global_step, (self.folder / LAST).exists()))


def test_training_goes_on_while_a_file_is_written(fit, tmp_path, slow):
    watch = Watch(tmp_path / "run")
    fit(epochs=2, callbacks=[watch], save_every_s=1e9)
    assert (STEPS + 1, False) in watch.steps  # a step of the second epoch, before the first one's file was there
    assert step_of(tmp_path / "run" / "checkpoints" / LAST) == 2 * STEPS


@pytest.mark.parametrize("keep", [1, 2])
def test_files_and_weights_are_those_of_a_run_that_waits(fit, tmp_path, monkeypatch, slow, keep):
    scores = [0.1, 0.4, 0.3]
    monkeypatch.setattr(
        "famseg.task.SegmentationTask.on_validation_epoch_end",
        lambda task: task.log("val/miou", torch.tensor(scores[task.current_epoch])),
    )
    fit("beside", epochs=3, keep_best=keep)
    slow.undo()
    for module in (best, last):
        monkeypatch.setattr(module, "beside_training", lambda trainer: nullcontext())
    fit("waits", epochs=3, keep_best=keep)
    names = [sorted(path.name for path in (tmp_path / each).rglob("*.ckpt")) for each in ("beside", "waits")]
    assert names[0] == names[1]
    assert len(names[0]) == (3 if keep == 1 else 5)
    for name in names[0]:
        there, want = (
            torch.load(tmp_path / each / "checkpoints" / name, weights_only=True) for each in ("beside", "waits")
        )
        for content in (there, want):
            content.pop("callbacks")  # has the folder's name
        assert_same(there, want)


class Killed(Callback):
    """Leaves the folder that a kill in the third epoch would leave."""

    def __init__(self, folder, left):
        self.folder, self.left = folder, left

    def on_train_batch_end(self, trainer, task, *_):
        if trainer.global_step == 2 * STEPS + 2:
            shutil.copytree(self.folder, self.left)


def test_killed_while_the_epoch_before_is_written_it_ends_the_same(fit, tmp_path, monkeypatch, fault):
    fault("kill -9 while training and writing the epoch before", "same weights and metrics.csv, bit for bit")
    flush = os.fsync

    def slowly(number):
        time.sleep(0.15 if os.readlink(f"/proc/self/fd/{number}").endswith(".ckpt.partial") else 0)
        flush(number)

    monkeypatch.setattr(os, "fsync", slowly)
    _, whole = fit("whole", callbacks=[Killed(tmp_path / "whole", tmp_path / "cut")])
    checkpoints = tmp_path / "cut" / "checkpoints"
    assert (checkpoints / f".{LAST}.partial").exists()
    assert step_of(checkpoints / LAST) == STEPS
    point = resume.resume_point(str(tmp_path / "cut"), True)
    _, resumed = fit("cut", ckpt_path=point)
    assert_same(resumed.state_dict(), whole.state_dict())
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()
    assert not list((tmp_path / "cut").rglob("*.ckpt.partial"))


class Ctrl(Callback):
    """Ctrl-C, once the first epoch is saved."""

    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["an error", "Ctrl-C"])
def test_a_run_that_ends_by_an_error_has_what_it_saved(fit, tmp_path, slow, what):
    with pytest.raises(fit.Stopped if what == "an error" else SystemExit):
        fit(epochs=4, stop_after=1 if what == "an error" else None, callbacks=[Ctrl()] if what == "Ctrl-C" else [])
    for name in (BEST, LAST):
        assert step_of(tmp_path / "run" / "checkpoints" / name) == STEPS
    assert resume.resume_point(str(tmp_path / "run"), True)
    assert not list(tmp_path.rglob("*.partial"))


class SignalAfterEpoch(Callback):
    """Asks the run to stop at the end of its second epoch."""

    def on_validation_end(self, trainer, task):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("within", [False, True])
def test_a_run_that_is_asked_to_stop_leaves_with_its_checkpoint_on_the_disk(fit, tmp_path, slow, caplog, within):
    with pytest.raises(Preempted) as left:
        fit(epochs=4, callbacks=[fit.SignalAt(STEPS + 2) if within else SignalAfterEpoch()], save_every_s=1e9)
    assert left.value.saved
    assert step_of(tmp_path / "run" / "checkpoints" / LAST) == (STEPS + 3 if within else 2 * STEPS)
    assert "saved" in caplog.text


@pytest.mark.parametrize("file", [1, 3, 4])
def test_a_disk_that_is_full_ends_the_run_in_one_sentence(fit, tmp_path, full, fault, file):
    """best.ckpt of the first epoch, the second one's first file, and one that nothing comes after."""
    fault("disk full while a checkpoint is written beside the training", "one sentence, before the run says it is done")
    full(file)
    with pytest.raises(UserError, match=r"No space left.*resume=true"):
        fit(epochs=2, monitor="val/loss")
    assert all(damage(path) is None for path in tmp_path.rglob("*.ckpt"))
    assert len(list(tmp_path.rglob("*.ckpt"))) >= min(file - 1, 2)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_does_not_hide_why_a_run_ends(fit, full, caplog):
    full(2)
    with pytest.raises(fit.Stopped):
        fit(epochs=2, stop_after=1)
    assert "could not be written (No space left" in caplog.text.replace("[Errno 28] ", "")


PROGRAM = """
import sys, torch, time
from famseg.checkpoint_io import DurableCheckpointIO
from famseg.checkpoint_writer import BackgroundCheckpointIO

write = DurableCheckpointIO.save_checkpoint

def slowly(*arguments):
    time.sleep(0.3)
    write(*arguments)

DurableCheckpointIO.save_checkpoint = slowly
io = BackgroundCheckpointIO()
io.beside = True
io.save_checkpoint({"x": torch.ones(3)}, sys.argv[1])
sys.exit(75)
"""


@pytest.mark.slow
def test_a_process_does_not_exit_before_its_file_is_written(tmp_path):
    path = tmp_path / LAST
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 75, done.stderr
    assert torch.load(path)["x"].sum() == 3
