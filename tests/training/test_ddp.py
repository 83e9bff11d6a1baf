"""Two processes (gloo on the CPU, NCCL on GPUs) train as one does with the same total batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("ddp_program.py")


def on_one_and_two(folder, setting):
    values = {}
    for devices in (1, 2):
        output = folder / str(devices)
        output.mkdir()
        command = [sys.executable, str(PROGRAM), str(devices), str(output), setting]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        values[devices] = json.loads((output / "losses.json").read_text())
    return values


@pytest.mark.slow
def test_two_processes_equal_one_across_the_switch(tmp_path):
    values = on_one_and_two(tmp_path, "cpu")
    assert len(values[1]["losses"]) >= 20
    assert values[2]["losses"] == pytest.approx(values[1]["losses"], rel=1e-9)
    assert values[2]["epochs"] == pytest.approx(values[1]["epochs"], rel=1e-6)  # the mean is kept in float32


@pytest.mark.gpu
@pytest.mark.timeout(900)  # each of the two compiles the kernels for float32: minutes, where they never ran
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("setting", "steps", "rel"), [("gpu", 20, 1e-6), ("kernels", 3, 1e-4)])
def test_two_gpus_equal_one_across_the_switch(tmp_path, setting, steps, rel):
    """Batch statistics of four numbers and AdamW, which asks for signs, spread what two orders of sums differ by."""
    values = on_one_and_two(tmp_path, setting)
    assert len(values[1]["losses"]) >= 20
    assert values[2]["losses"][:steps] == pytest.approx(values[1]["losses"][:steps], rel=rel)


@pytest.mark.slow
def test_the_program_trains_on_two_processes(repository, tmp_path):
    """Lightning starts train.py once more in the same folder, which a second run would be refused."""
    small = ["model=famseg_n", "model.depths=[1,1,1,1]", "data.size=[32,32]", "data.n=20", "data.batch_size=2"]
    fixed = ["trainer=ddp_cpu", "trainer.max_epochs=2", "logger=none", "trainer.progress=false"]
    command = [sys.executable, "train.py", *small, *fixed, f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr + done.stdout
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"
    assert "holds a run already" in subprocess.run(command, cwd=repository, capture_output=True, text=True).stderr
