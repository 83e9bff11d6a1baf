"""The real train.py, killed with -9 at random moments in every phase, ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

KILLS = 20
EPOCHS = 64
RUN = [
    "model=famseg_n",
    "model.depths=[1,1,1,1]",
    "data.size=[32,32]",
    "data.n=20",
    "data.batch_size=4",
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.progress=false",
    "switch.at=0.5",
    "logger=none",
    "callbacks.overlays.every=1000",
    "trainer.save_every_s=0",
    "resume=true",
]


def start(repository, runs, *overrides, **options):
    return subprocess.Popen(
        [sys.executable, "train.py", *RUN, f"runs={runs}", *overrides],
        cwd=repository,
        **options,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs(runs):
    """Rows of the table of the only run there is."""
    return sum(len(table.read_text().splitlines()) - 1 for table in runs.glob("default/*/metrics.csv"))


def wait(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)
    return process.poll() is None


def kill(process, runs, draw, in_write):
    """Kill once the run has got on, at a random moment or while it writes a checkpoint; False if it was over."""
    due = epochs(runs) + draw.randint(1, 3)
    alive = wait(process, lambda: epochs(runs) >= due)
    if in_write:
        alive = alive and wait(process, lambda: list(runs.glob("default/*/checkpoints/.*.partial")))
    elif alive:
        time.sleep(draw.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive and process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_twenty_times_ends_the_same(repository, tmp_path, fault):
    fault(
        "kill -9, twenty times, five of them during a checkpoint", "same weights, metrics.csv and test.csv, bit for bit"
    )
    draw = random.Random(0)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    kills, phases = 0, set()
    while kills < KILLS and epochs(cut) < EPOCHS - 3:
        kills += kill(start(repository, cut), cut, draw, in_write=kills % 4 == 3)
        phases.add(epochs(cut) > EPOCHS / 2)
    for runs in (cut, whole):
        process = start(repository, runs)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
    assert kills == KILLS
    assert phases == {False, True}
    assert_same(cut, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_between_two_last_checkpoints_ends_the_same(repository, tmp_path, fault):
    """A process writes one after its first epoch only; best.ckpt may be newer."""
    fault("kill -9 some epochs after last.ckpt, five times", "same weights, metrics.csv and test.csv, bit for bit")
    draw = random.Random(0)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    options = ("trainer.save_every_s=1000", "trainer.max_epochs=24")
    for _ in range(5):
        assert kill(start(repository, cut, *options), cut, draw, in_write=False)
    for runs in (cut, whole):
        process = start(repository, runs, *options)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    assert_same(cut, whole)


def assert_same(cut, whole):
    (a,), (b,) = cut.glob("default/*"), whole.glob("default/*")
    for table in ("metrics.csv", "test.csv", "test_scores.csv", "split.csv"):
        assert (a / table).read_bytes() == (b / table).read_bytes(), table
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def state(runs):
    (path,) = runs.glob("default/*/status.json")
    return json.loads(path.read_text())["state"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_to_all_processes_of_a_job(repository, tmp_path, fault):
    """A cluster signals the loader's workers as well; they must not leave before the trainer has saved."""
    fault("SIGTERM to all processes of a job, loader's workers too", "saves, exit code 75, status resumable")
    options = ("data.num_workers=2", "trainer.max_epochs=20")
    process = start(repository, tmp_path, *options, start_new_session=True)
    assert wait(process, lambda: epochs(tmp_path) >= 2)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, state(tmp_path)) == (75, "resumable"), errors[-3000:]
    process = start(repository, tmp_path, *options)
    assert process.communicate(timeout=300)[0] is None
    assert (process.returncode, state(tmp_path)) == (0, "done")


MOMENTS = {"while torch is imported": ".hydra/overrides.yaml", "while images are read": "environment.json"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_before_the_first_step(repository, tmp_path, fault, number, moment):
    fault("SIGTERM or SIGUSR1 before the first step", "exit code 75, nothing to save; resumed: starts")
    process = start(repository, tmp_path, "data.n=20000")
    assert wait(process, lambda: list(tmp_path.glob(f"default/*/{MOMENTS[moment]}")))
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors[-3000:]
    (folder,) = tmp_path.glob("default/*")
    assert not (folder / "metrics.csv").exists()
    if moment == "while images are read":
        assert state(tmp_path) == "resumable"
    process = start(repository, tmp_path, "data.n=20000", "trainer.max_epochs=1", f"hydra.run.dir={folder}")
    assert wait(process, lambda: (folder / "environment.json").exists() and state(tmp_path) == "running")
    process.kill()
    process.communicate()
