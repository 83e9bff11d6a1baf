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
