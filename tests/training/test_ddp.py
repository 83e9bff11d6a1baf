"""Two processes (gloo on the CPU, NCCL on GPUs) train as one does with the same total batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("ddp_program.py")


def on_one_and_two(folder, accelerator):
    values = {}
    for devices in (1, 2):
        output = folder / str(devices)
        output.mkdir()
        command = [sys.executable, str(PROGRAM), str(devices), str(output), accelerator]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
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
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_equal_one_across_the_switch(tmp_path):
    values = on_one_and_two(tmp_path, "gpu")
    assert len(values[1]["losses"]) >= 20  # float32 drifts apart afterwards, as any two orders of sums do
    assert values[2]["losses"][:20] == pytest.approx(values[1]["losses"][:20], rel=1e-4)
