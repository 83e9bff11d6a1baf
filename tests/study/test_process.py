"""Cells in processes of their own: what they find there, and what becomes of them."""

import multiprocessing
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from omegaconf import DictConfig

from famseg.study.process import last_words, start


@dataclass
class Cell:
    """Runs a line of Python; its value is the last word."""

    line: str
    config: DictConfig = field(default_factory=lambda: DictConfig({}))

    def __call__(self):
        import os
        import sys

        return str(eval(self.line, {"os": os, "sys": sys}))


def outcome(cell, **options):
    process, connection = start(cell, **options)
    process.join()
    return last_words(process, connection)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("'done'", "done"),
        ("os._exit(3)", "its process left with 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_last_words(line, words):
    assert outcome(Cell(line)) == words


def test_the_environment_is_that_of_now(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert outcome(Cell("os.environ['CUDA_VISIBLE_DEVICES']")) == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # Ray gives the next cell of a worker another GPU
    assert outcome(Cell("os.environ['CUDA_VISIBLE_DEVICES']")) == "1"


def test_loader_processes_start_as_in_a_run_without_a_sweep():
    line = "__import__('multiprocessing').get_start_method()"
    assert in_fresh_python(f"print({line}, outcome(Cell({line!r})))") == [multiprocessing.get_start_method()] * 2


def test_what_it_prints_is_added_to_a_file(tmp_path):
    path = tmp_path / "cell" / "output.txt"
    for word in ("first", "second"):
        outcome(Cell(f"print('{word}', flush=True) or os.system('echo {word} >&2')"), output=path)
    assert path.read_text() == "first\nfirst\nsecond\nsecond\n"


def in_fresh_python(program):
    """The words that a program prints, and the cells that it starts."""
    head = "from test_process import *\nif __name__ == '__main__':\n"
    command = [sys.executable, "-c", head + textwrap.indent(textwrap.dedent(program), "    ")]
    run = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    return run.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each cell is a new Python")
def test_modules_of_its_configuration_are_there():
    config = {"list": [{"_target_": "famseg.biometry.head.measure"}], "other": {"_target_": "colorsys.rgb_to_hls"}}
    line = "[name in sys.modules for name in ('famseg.biometry.head', 'colorsys')]"
    assert in_fresh_python(f"print(outcome(Cell({line!r}, DictConfig({config!r}))))") == ["[True,", "False]"]


@pytest.mark.parametrize("survives", [True, False])
def test_whose_sweep_dies(survives):
    line = "[__import__('time').sleep(2), print('lives', flush=True)]"
    program = f"""
    import os
    start(Cell({line!r}), survives={survives})
    os._exit(0)
    """
    assert in_fresh_python(program) == (["lives"] if survives else [])  # the cell, too, has to close the output


@pytest.mark.gpu
def test_what_training_imports_leaves_the_gpu_to_the_cell(repository):
    program = f"""
    from hydra import compose, initialize_config_dir
    with initialize_config_dir({str(repository / "conf")!r}, version_base="1.3"):
        config = compose("train", overrides=["logger=wandb", "callbacks=ema"])
    print(outcome(Cell("__import__('torch').ones(2, device='cuda').sum().item()", config)))
    """
    assert in_fresh_python(program) == ["2.0"]
