"""Ray with logical GPUs on a CPU, and the real train.py in a sweep."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from famseg.study.cells import read_study
from famseg.study.identity import cell_name

RAY = ("hydra/launcher=ray", "hydra.launcher.num_gpus=4", "hydra.launcher.num_cpus=4")
SMALL = [
    "model=famseg_n",
    "model.depths=[1,1,1,1]",
    "data.size=[32,32]",
    "data.n=20",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.progress=false",
    "logger=none",
]


def spans(study):
    """(start, end, device) of every cell that came to its end."""
    for end in study.glob("*/end"):
        last = json.loads((end.parent / "starts.jsonl").read_text().splitlines()[-1])
        yield last["start"], float(end.read_text()), last["device"]


@pytest.mark.slow
def test_eight_cells_on_four_logical_gpus_one_failing_one_killed(stub, count, fault):
    fault("a cell of a sweep that fails, one killed with -9", "the others finish; retry=failed runs these two alone")
    first = stub("seed=0,1,2,3,4,5,6,7", "meet=4", *RAY, FAIL="2", KILL="5")
    assert first.returncode == 1
    assert "6 of 8 cells are done" in first.stdout
    bad = {cell.name.rpartition("+")[0]: cell.state for cell in read_study(stub.study) if cell.state != "done"}
    assert bad == {"seed-2": "failed", "seed-5": "lost"}
    assert "failed (ValueError: told to fail)" in first.stdout
    assert "lost (killed by SIGKILL)" in first.stdout
    second = stub("seed=0,1,2,3,4,5,6,7", "meet=4", "retry=failed", *RAY)
    assert second.returncode == 0, second.stderr
    assert count(stub.study) == {seed: 2 if seed in (2, 5) else 1 for seed in range(8)}


@pytest.mark.slow
def test_never_more_than_four_each_with_its_own_device(stub):
    done = stub("seed=0,1,2,3,4,5,6,7", "meet=4", *RAY)
    assert done.returncode == 0, done.stderr
    every = list(spans(stub.study))
    assert {device for *_, device in every} == {"0", "1", "2", "3"}
    at_once = [[other for other in every if other[0] <= start < other[1]] for start, *_ in every]
    assert max(len(cells) for cells in at_once) == 4  # `meet` makes the first four wait for each other
    assert all(len({device for *_, device in cells}) == len(cells) for cells in at_once)


@pytest.mark.slow
def test_two_cells_share_a_gpu(stub):
    done = stub("seed=0,1,2,3", "meet=2", *RAY[:1], "hydra.launcher.num_gpus=1", "hydra.launcher.num_cpus=4",
                "hydra.launcher.gpus_per_cell=0.5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    every = list(spans(stub.study))
    assert {device for *_, device in every} == {"0"}
    assert max(sum(other[0] <= start < other[1] for other in every) for start, *_ in every) == 2


@pytest.mark.slow
def test_more_than_there_is_is_refused(stub):
    done = stub("hydra/launcher=ray", "hydra.launcher.num_gpus=0", "hydra.launcher.gpus_per_cell=0.5")
    assert done.returncode == 1
    assert "gpus_per_cell=0.5: Ray has 0 GPUs" in done.stderr
    assert "Traceback" not in done.stderr


def sweep(repository, runs, *arguments):
    command = [sys.executable, "train.py", "-m", *SMALL, f"runs={runs}", "study=real", *arguments]
    return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_real_program_killed_in_a_sweep_ends_as_if_nothing_had_happened(repository, tmp_path):
    axes = ["optimizer=adamw,sgd", "trainer.max_epochs=30", "switch.at=0.5"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = sweep(repository, cut, *axes, *RAY[:1], "hydra.launcher.num_cpus=2")
    while not (begun := sorted(cell for cell in cut.glob("real/*/") if (cell / "checkpoints" / "last.ckpt").exists())):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(json.loads((begun[0] / "status.json").read_text())["pid"], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert f"{begun[0].name}: lost" in output
    for runs, launcher in ((cut, "ray"), (whole, "serial")):
        process = sweep(repository, runs, *axes, f"hydra/launcher={launcher}")
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "2 of 2 cells are done" in output
    assert "Going on from" in (begun[0] / "output.txt").read_text()
    for cell in read_study(cut / "real"):
        assert cell.name == cell_name([f"optimizer={cell.choices['optimizer']}"], cell.config)  # as known beforehand
        for table in ("metrics.csv", "test.csv", "split.csv"):
            assert (cell.folder / table).read_bytes() == (whole / "real" / cell.name / table).read_bytes(), table


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_cells_save_when_a_sweep_is_asked_to_stop(repository, tmp_path, fault, number, code):
    fault("SIGTERM or Ctrl-C to a sweep, ray launcher", "its cells save; no other starts; exit code 75 or 130")
    axes = ["optimizer=adamw,sgd,adadelta", "trainer.max_epochs=2000", "switch=none"]
    process = sweep(repository, tmp_path, *axes, *RAY[:1], "hydra.launcher.num_cpus=2")
    while len(list(tmp_path.glob("real/*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    assert "1 not started" in output
    cells = read_study(tmp_path / "real")
    assert sorted(cell.state for cell in cells) == ["resumable", "resumable", "waiting"]
    for cell in cells:
        if cell.state == "resumable":
            assert "Asked to stop in epoch" in (cell.folder / "output.txt").read_text()
