"""A command that would not go on with the run it names is refused, and the run stays as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from famseg.errors import UserError
from famseg.resume import require_same_run
from famseg.study.identity import differing

RUN = ["model=famseg_n", "model.depths=[1,1,1,1]", "data=folder", "data.size=[32,32]", "data.batch_size=4"]
RUN += ["trainer=cpu", "trainer.max_epochs=1", "trainer.progress=false", "switch=none", "logger=none", "resume=true"]


def add_images(root, names):
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        image = np.random.default_rng(int(name)).integers(0, 255, (40, 40), np.uint8)
        label = np.zeros_like(image)
        label[10:30, 10:30], label[2:6] = 2, 1
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
        cv2.imwrite(str(root / "labels" / f"{name}.png"), label)


def train(*arguments):
    command = [sys.executable, "train.py", *RUN, *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    add_images(folder / "data", [f"{number:02d}" for number in range(20)])
    done = train(f"data.root={folder}/data", f"hydra.run.dir={folder}/run")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The run and its images at another place, as if moved there."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def record(run, left_out=("train.log", ".lock")):
    """Content of a run's folder."""
    files = (path for path in run.rglob("*") if path.is_file() and not {*path.parts} & {*left_out})
    return {path: path.read_bytes() for path in files}


def refused(run, *arguments, **options):
    before = record(run, **options)
    done = train(f"data.root={run.parent}/data", f"hydra.run.dir={run}", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert record(run, **options) == before
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=5", "data.fold=2"], "of another run; seed, data.fold, data.seed, callbacks.seeding.seed differ"),
        pytest.param(["optimizer=sgd"], "config.yaml: of another run; optimizer.name,", marks=pytest.mark.slow),
    ],
)
def test_another_configuration(run, arguments, words, fault):
    fault("resume=true with other options", "refused; the keys that differ are named, nothing is overwritten")
    assert words in refused(run, *arguments)


def test_other_images(run, fault):
    fault("images added to or taken from the folder, then resume=true", "refused; nothing is overwritten")
    add_images(run.parent / "data", [f"{number:02d}" for number in range(20, 28)])
    words = refused(run, left_out=("train.log", ".lock", ".hydra"))  # Hydra notes the new place of the images
    assert "8 images are new, 0 gone" in words
    assert f"data.split_file={run}/split.csv" in words


@pytest.mark.slow
def test_new_images_can_be_left_out_of_a_moved_run_that_goes_on_for_longer(run):
    split, place = (run / "split.csv").read_text(), [f"data.root={run.parent}/data", f"hydra.run.dir={run}"]
    add_images(run.parent / "data", [f"{number:02d}" for number in range(20, 28)])
    done = train(*place, f"data.split_file={run}/split.csv", "trainer.max_epochs=2", "trainer.precision=bf16-mixed")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Going on from" in done.stderr + done.stdout
    assert (run / "split.csv").read_text() == split
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


CONFIG = {"output": "/a/run", "seed": 0, "data": {"root": "/a/hc18", "fold": 0, "sets": {"x": {"root": "/a"}}}}
CONFIG |= {"trainer": {"max_epochs": 4, "devices": 1, "output": "/a/run"}, "optimizer": {"momentum": 0.9, "lr": [1e-5]}}


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("output", "/b/run", True),
        ("data.root", "/b/head", True),
        ("data.sets.x.root", "/b", True),
        ("data.num_workers", 3, True),
        ("callbacks.compilation._target_", "famseg.callbacks.KernelCompilation", True),  # earlier versions had none
        ("trainer.devices", 2, True),
        ("trainer.save_every_s", 0, True),
        ("trainer.max_epochs", 5, True),
        ("trainer.max_epochs", 3, False),
        ("data.fold", 1, False),
        ("optimizer.lr", [1e-4], False),
        ("trainer.accumulate_grad_batches", 2, False),
    ],
)
@pytest.mark.parametrize("checkpoint", ["last.ckpt", "best.ckpt", "before_last.ckpt"])
def test_what_may_change(tmp_path, key, value, allowed, checkpoint):
    (tmp_path / "checkpoints").mkdir()
    old, new = OmegaConf.create(CONFIG), OmegaConf.create(CONFIG)
    OmegaConf.save(old, tmp_path / "config.yaml")
    OmegaConf.update(new, key, value)
    require_same_run(tmp_path, OmegaConf.to_container(new))  # no checkpoint: nothing to lose
    (tmp_path / "checkpoints" / checkpoint).touch()
    if allowed:
        require_same_run(tmp_path, OmegaConf.to_container(new))
    else:
        with pytest.raises(UserError, match=rf"config\.yaml: of another run; {key} differ"):
            require_same_run(tmp_path, OmegaConf.to_container(new))


def test_an_unreadable_configuration_is_not_passed_over(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "config.yaml").write_text("seed: [")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        require_same_run(tmp_path, CONFIG)


def test_keys_that_differ_are_named_from_the_outside_in():
    other = CONFIG | {"seed": 1, "optimizer": {"lr": [1e-5]}}
    assert differing(CONFIG, other) == ["seed", "optimizer.momentum"]


@pytest.mark.slow
def test_a_run_goes_on_without_the_network_that_it_started_from(run, tmp_path):
    start = tmp_path / "start.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", start)
    own = (f"data.root={tmp_path}/data", f"hydra.run.dir={tmp_path}/tuned", f"init_from={start}")
    assert train(*own).returncode == 0
    start.unlink()
    again = train(*own, "trainer.max_epochs=2")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (tmp_path / "tuned" / "metrics.csv").read_text().count("\n") == 3  # a head and two epochs
