"""What is not imported: seconds are no test, modules are."""

import re
import subprocess
import sys

import pytest

HEAVY = {"torch", "lightning", "albumentations", "scipy", "matplotlib", "wandb", "pandas", "torchmetrics"}


def imported(repository, *command):
    """Top-level modules that a Python process imported."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=repository, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in re.findall(r"^import time:.*\|\s*(\S+)$", run.stderr, re.MULTILINE)}


@pytest.mark.parametrize(
    "command",
    [
        ("-c", "import famseg"),
        ("train.py", "--help"),
        ("eval.py", "--help"),
        ("-m", "famseg.cli", "predict", "--help"),
        ("-m", "famseg.cli", "data", "check", "--help"),
    ],
    ids=" ".join,
)
def test_help_waits_for_nothing_heavy(repository, command):
    found = imported(repository, *command)
    assert found & {"famseg", "hydra"}
    assert not found & HEAVY


def test_a_prediction_needs_no_training_code(repository):
    found = imported(
        repository, "-c", "import famseg.prediction.predict, famseg.prediction.hc18_submission, famseg.models"
    )
    assert "torch" in found
    assert not found & {"lightning", "albumentations", "matplotlib", "wandb", "pandas", "torchmetrics"}


def test_a_training_imports_only_what_it_uses(repository):
    """Plots belong to evaluations, wandb to its logger, albumentations to the loader that uses it."""
    found = imported(
        repository, "-c", "import famseg.run, famseg.task, famseg.trainer, famseg.callbacks, famseg.data.hc18"
    )
    assert "lightning" in found
    assert not found & {"albumentations", "wandb"}


def test_a_relaxed_collector_spares_what_was_imported_and_ends_what_came_later():
    program = """
import gc
from famseg import collector

class Circle:
    def __init__(self, name):
        self.name, self.me = name, self

    def __del__(self):
        print("ended", self.name)

young, *older = gc.get_threshold()
collector.relax()
print(gc.get_threshold() == (10_000, *older), young < 10_000)
Circle("before")
collector.spare_imports()
Circle("after")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["True True", "ended after"]


@pytest.mark.parametrize(
    ("how", "command"), [("run_path", "train.py"), ("run_path", "eval.py"), ("run_module", "famseg.cli")]
)
def test_every_command_relaxes_the_collector(repository, how, command):
    program = f"""
import gc, runpy, sys
sys.path.insert(0, ".")
sys.argv = [{command!r}, "--help"]
try:
    runpy.{how}({command!r}, run_name="__main__")
except SystemExit:
    pass
print("threshold", gc.get_threshold()[0])
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) >= 10_000
