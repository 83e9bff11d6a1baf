"""Sweeps of a stub program by the real launchers: failures, kills, signals, locks, and a second start."""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import DictConfig

from famseg.errors import UserError
from famseg.study.cells import read_study


def wait_for(condition, process):
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(study):
    return {cell.name.rpartition("+")[0]: cell.state for cell in read_study(study)}


def test_a_failed_and_a_killed_cell_stop_no_other(stub, count):
    first = stub("seed=0,1,2", FAIL="0", KILL="1")
    assert first.returncode == 1
    assert states(stub.study) == {"seed-0": "failed", "seed-1": "lost", "seed-2": "done"}
    assert "1 of 3 cells are done" in first.stdout
    assert "failed (ValueError: told to fail)" in first.stdout
    assert "lost (killed by SIGKILL)" in first.stdout
    assert "2 of 3 cells are not done" in first.stderr
    second = stub("seed=0,1,2")
    assert second.returncode == 1
    assert count(stub.study) == {0: 1, 1: 2, 2: 1}
    third = stub("seed=0,1,2,3", "retry=failed")  # and one seed more
    assert third.returncode == 0, third.stderr
    assert count(stub.study) == {0: 2, 1: 2, 2: 1, 3: 1}
    assert "4 of 4 cells are done" in third.stdout


def test_a_second_start_is_refused_while_the_first_lives(stub, count, fault):
    fault("a second start of a study, the first alive or killed", "refused while it lives; then it runs what is left")
    first = stub("seed=0,1", wait=False, HOLD="0")
    wait_for(lambda: count(stub.study), first)
    second = stub("seed=0,1")
    assert second.returncode == 1
    assert f"a sweep in it is running (process {first.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    first.kill()  # its cell goes on alone
    first.wait()
    third = stub("seed=0,1")
    assert "1 still running in another process" in third.stdout
    assert states(stub.study) == {"seed-0": "running", "seed-1": "done"}
    (held,) = [cell for cell in read_study(stub.study) if cell.state == "running"]
    os.kill(json.loads((held.folder / ".lock").read_text())["pid"], signal.SIGKILL)


def test_sigterm_is_handed_on_and_ends_the_sweep(stub, count, fault):
    fault("SIGTERM to a sweep, serial launcher", "handed on to its cell; no other starts; exit code 75")
    process = stub("seed=0,1", wait=False, HOLD="0")
    wait_for(lambda: count(stub.study), process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "1 not started" in output
    assert states(stub.study) == {"seed-0": "lost", "seed-1": "waiting"}


class Sleeper:
    """A cell without an end."""

    config = DictConfig({})

    def __call__(self):
        time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_a_cell_is_being_started_ends_the_sweep(monkeypatch, number):
    """Which takes seconds for the first, since torch is imported for it."""
    module = importlib.import_module("hydra_plugins.famseg_serial.launcher")
    start = module.start

    def interrupted(work):
        os.kill(os.getpid(), number)
        return start(work)

    monkeypatch.setattr(module, "start", interrupted)
    cells = module.SerialLauncher().run([Sleeper()] * 2)
    began = time.monotonic()
    with pytest.raises(SystemExit, match="75"):
        next(cells)
    assert time.monotonic() - began < 30


def test_a_cell_is_found_whatever_its_command_looked_like(stub, count):
    assert stub("seed=0,1").returncode == 0
    again = stub("meet=0", "seed=1,2")
    assert "3 cells" not in again.stdout
    assert count(stub.study) == {0: 1, 1: 1, 2: 1}


@pytest.mark.slow
def test_hydras_own_launcher_does_not_overwrite_cells(repository, tmp_path):
    done = tmp_path / "default" / "1"
    done.mkdir(parents=True)
    (done / "status.json").write_text('{"state": "done"}')
    command = ["train.py", "-m", "hydra/launcher=basic", "seed=1", f"runs={tmp_path}", "hydra.sweep.subdir=1"]
    run = subprocess.run([sys.executable, *command], cwd=repository, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    assert "holds a run already" in run.stderr


def test_an_unknown_launcher_is_named(stub):
    done = stub("hydra/launcher=rays")
    assert done.returncode == 1
    assert "Could not find 'hydra/launcher/rays'" in done.stderr
    assert "ray\n" in done.stderr
    assert "slurm\n" in done.stderr


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_launcher_that_is_not_installed_says_how_to_install_it(name, monkeypatch):
    module = importlib.import_module(f"hydra_plugins.famseg_{name}.launcher")
    launcher = {"ray": "RayLauncher", "slurm": "SlurmLauncher"}[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"not installed: pip install 'famseg\[{name}\]'"):
        getattr(module, launcher)().require()


@pytest.mark.slow
def test_slurms_engine_on_this_machine(stub, count):
    arguments = ("seed=0,1,2", "hydra/launcher=slurm", "hydra.launcher.cluster=local", "hydra.launcher.poll=0.2")
    first = stub(*arguments, FAIL="0", KILL="1")
    assert first.returncode == 1
    assert states(stub.study) == {"seed-0": "failed", "seed-1": "lost", "seed-2": "done"}
    assert stub(*arguments, "retry=failed").returncode == 0
    assert count(stub.study) == {0: 2, 1: 2, 2: 1}


def test_slurm_that_is_not_there_is_said(stub):
    done = stub("hydra/launcher=slurm")
    assert done.returncode == 1
    assert "submitit refuses" in done.stderr
    assert "Traceback" not in done.stderr
