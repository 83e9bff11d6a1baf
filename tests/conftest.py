"""Shared by all tests: one thread per process, since pytest runs several, and Triton's kernels without a GPU."""

import importlib
import os
import pkgutil
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# mamba-ssm would compile dozens of cuts of each of its kernels and time them, for minutes, in each process; so, one.
os.environ.setdefault("MAMBA_DETERMINISTIC", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

# A shell has its background jobs ignore Ctrl+C, and so all their children: no test could interrupt anything.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton decides when it is imported whether its interpreter runs kernels: before any library imports it, and for the
# kernels themselves. That a layer may use them is said by the tests of the kernels alone.
with pytest.MonkeyPatch.context() as patch:
    if not torch.cuda.is_available():
        patch.setenv("TRITON_INTERPRET", "1")
    import famseg.kernels

    for module in pkgutil.iter_modules(famseg.kernels.__path__, "famseg.kernels."):
        importlib.import_module(module.name)


@pytest.fixture
def repository():
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture
def fault(record_property):
    """State which fault a test injects and how it must end; `--fault-table FILE` writes what passed as a table."""

    def state(what, outcome):
        record_property("fault", f"| {what} | {outcome} |")

    return state


def pytest_addoption(parser):
    parser.addoption("--fault-table", metavar="FILE", help="write the table of docs/interruptions.md")


def pytest_terminal_summary(terminalreporter, config):
    path = config.getoption("--fault-table")
    if path:
        passed = terminalreporter.stats.get("passed", [])
        rows = dict.fromkeys(value for report in passed for key, value in report.user_properties if key == "fault")
        Path(path).write_text("\n".join(["| fault | outcome |", "|---|---|", *rows]) + "\n")
