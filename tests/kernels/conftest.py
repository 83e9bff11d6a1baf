"""Kernels run on the GPU where there is one, else in Triton's interpreter (tests/conftest.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRET = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def interpret(monkeypatch):
    if INTERPRET:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return torch.device("cpu" if INTERPRET else "cuda")


@pytest.fixture
def outcome(tmp_path):
    """Runs a program beside this file with Triton's compiler and an empty cache, `tmp_path`; what it prints as JSON."""

    def run(program):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, Path(__file__).parent / program],
            env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run
