import os
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "program" / "stub.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def stub(tmp_path):
    """Start a sweep of the stub program; returns the process, or with `wait=False` the running one."""

    def start(*arguments, wait=True, **environment):
        command = [sys.executable, STUB, "-m", f"hydra.searchpath=[file://{ROOT}/conf]", f"runs={tmp_path}", *arguments]
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not wait:
            return process
        output, errors = process.communicate(timeout=280)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    start.study = tmp_path / "stub"
    return start


@pytest.fixture
def count():
    """Seed -> how often its cell has started."""

    def starts(study):
        lines = {path.parent.name: path.read_text().splitlines() for path in study.glob("*/starts.jsonl")}
        return {int(name.split("seed-")[1].partition("+")[0]): len(each) for name, each in lines.items()}

    return starts
