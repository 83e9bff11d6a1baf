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


def test_a_command_has_the_collector_relaxed(repository):
    """From before its imports on, and until all that ends with it has ended."""
    told = "import atexit, gc, sys; from famseg import collector; before = gc.get_threshold(); collector.relax(); "
    end = "print(gc.get_threshold()[0] > before[0], gc.get_threshold()[1:] == before[1:], gc.get_freeze_count()); "
    after = "atexit._run_exitfuncs(); print(gc.get_freeze_count() > 0)"
    run = subprocess.run([sys.executable, "-c", told + end + after], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "0", "True"]


@pytest.mark.parametrize(
    ("how", "command"), [("run_path", "train.py"), ("run_path", "eval.py"), ("run_module", "famseg.cli")]
)
def test_every_command_relaxes_it(repository, how, command):
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
