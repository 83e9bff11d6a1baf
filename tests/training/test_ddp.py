"""Two processes (gloo) train as one does with the same total batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ddp_program.py")


@pytest.mark.slow
def test_two_processes_equal_one_across_the_switch(tmp_path):
    values = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        command = [sys.executable, str(PROGRAM), str(devices), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        values[devices] = json.loads((folder / "losses.json").read_text())
    assert len(values[1]["losses"]) >= 20
    assert values[2]["losses"] == pytest.approx(values[1]["losses"], rel=1e-9)
    assert values[2]["epochs"] == pytest.approx(values[1]["epochs"], rel=1e-6)  # the mean is kept in float32
