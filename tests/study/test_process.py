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
    child, connection = start(cell, **options)
    child.join()
    return last_words(child, connection)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("'done'", "done"),
        ("'x' * 100_000", "x" * 2000),
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


def in_fresh_python(program, **options):
    """The words that a program prints, and the cells that it starts."""
    head = "from test_process import *\nif __name__ == '__main__':\n"
    command = [sys.executable, "-c", head + textwrap.indent(textwrap.dedent(program), "    ")]
    options |= {"cwd": Path(__file__).parent, "stdout": subprocess.PIPE, "text": True, "timeout": 100, "check": True}
    run = subprocess.run(command, **options)
    return run.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each cell is a new Python")
def test_the_code_and_its_revision_are_there_as_they_were_at_the_first():
    """And not only what a configuration names: kernels are imported when a network first runs."""
    names = ("famseg.run", "famseg.kernels.loss", "famseg.evaluation.results")
    line = f"all(name in sys.modules for name in {names})"
    for target, there in (("famseg.models.FAMSeg", "True"), ("torch.nn.ReLU", "False")):
        config = {"any": [{"_target_": target}]}
        assert in_fresh_python(f"print(outcome(Cell({line!r}, DictConfig({config!r}))))") == [there]


def test_a_module_that_cannot_be_imported_is_the_affair_of_cells_that_need_it(tmp_path):
    (tmp_path / "a_wrong.py").write_text("1 +")
    (tmp_path / "b_wrong").mkdir()
    (tmp_path / "b_wrong" / "__init__.py").write_text("raise TypeError")
    (tmp_path / "c_sound.py").touch()
    program = f"""
    import famseg.study
    famseg.__path__ = [{str(tmp_path)!r}]
    from famseg.study import preload
    print('famseg.c_sound' in sys.modules)
    """
    assert in_fresh_python(program) == ["True"]


def test_collectors_of_cells_leave_alone_what_they_share():
    """They would write to all of it, and each cell would have its own copy."""
    program = """
    import gc
    import famseg.study
    famseg.__path__ = []
    from famseg.study import preload
    print(gc.get_freeze_count() > 1000)
    """
    assert in_fresh_python(program) == ["True"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_all_processes_lets_the_sweep_wait_for_its_cell(tmp_path, fault, name):
    """A cell that has to save first, as `famseg.callbacks.Preemption` does."""
    what = "SIGTERM or SIGUSR1 to all processes of a sweep, serial launcher"
    fault(what, "its cell saves, and the sweep waits for it")
    ready = tmp_path / "ready"
    line = f"""[
        signal.signal(signal.{name}, lambda *_: came.append(1)),
        open({str(ready)!r}, 'w').close(),
        [time.sleep(0.01) for _ in iter(lambda: not came, False)],
        time.sleep(1),
    ][-1] or 'saved'"""
    names = "(lambda signal, time, came: {})(__import__('signal'), __import__('time'), [])"
    program = f"""
    import os, signal, time
    signal.signal(signal.{name}, lambda *_: None)
    child, connection = start(Cell({names.format(" ".join(line.split()))!r}))
    while not os.path.exists({str(ready)!r}):
        time.sleep(0.01)
    os.killpg(0, signal.{name})
    child.join()
    print(last_words(child, connection))
    """
    assert in_fresh_python(program, start_new_session=True) == ["saved"]


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


@pytest.mark.slow
def test_what_a_fork_shares_has_asked_for_no_gpu():
    """CUDA, once started, does not survive a fork; without a GPU the test before cannot show it."""
    program = """
    import torch
    asked = []
    for name in ("is_available", "device_count", "get_device_properties", "_lazy_init"):
        setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
    torch.cuda.is_available()
    import famseg.study.preload
    print(*asked)
    """
    assert in_fresh_python(program) == ["is_available"]
