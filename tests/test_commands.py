"""train.py and eval.py as a user runs them: each in a process of its own."""

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra.errors import CompactHydraException
from wandb_records import runs_in

from famseg.configuration import composed
from famseg.evaluation.evaluate import evaluate

SMALL = [
    "model=famseg_n",
    "data.size=[32,32]",
    "data.n=20",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.progress=false",
    "scheduler=cos",
]


def run(repository, script, *arguments, check=True):
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=250)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    run(Path(__file__).parents[1], "train.py", *SMALL, f"runs={runs}", "switch.at=1")
    (folder,) = (runs / "default").iterdir()
    return folder


def test_run_folder_is_complete(trained):
    expected = {"config.yaml", "environment.json", "metrics.csv", "timing.csv", "split.csv", "status.json", "test.csv"}
    expected |= {"test_scores.csv", "test_summary.csv", "checkpoints", "overlays", ".hydra", "wandb"}
    assert expected <= {path.name for path in trained.iterdir()}
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert json.loads((trained / "status.json").read_text())["state"] == "done"
    assert json.loads((trained / "environment.json").read_text())["packages"]["torch"] == version("torch")


def test_wandb_holds_what_the_folder_holds(trained):
    (record,) = runs_in(trained)
    with (trained / "test_scores.csv").open() as file:
        scores = next(csv.DictReader(file))
    assert record.values("test/miou") == [pytest.approx(float(scores["miou"]), abs=1e-6)]
    assert len(record.values("train/loss")) == 1
    assert record.config["data"]["n"] == 20
    assert record.config["revision"] == json.loads((trained / "environment.json").read_text())["revision"]
    for key in ("val/overlays", "test/extremes"):
        (names,) = record.values(f"{key}.filenames")
        (layers,) = record.values(f"{key}.all_masks")
        assert all({"prediction", "truth"} == layer.keys() for layer in layers)
        assert all((record.files / name).is_file() for name in names)
    assert record.exit_codes == [0]


def test_every_test_image_has_a_row(trained):
    with (trained / "split.csv").open() as file:
        test = [row["file"] for row in csv.DictReader(file) if row["split"] == "test"]
    with (trained / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(test)
    assert {"dice_fb", "iou_fl", "hd95_mm_fb", "hc_mm", "hc_mm_predicted", "fl_mm"} <= set(rows[0])


def test_eval_repeats_the_test_of_the_run(trained, repository, tmp_path):
    done = run(repository, "eval.py", f"run={trained}", f"runs={tmp_path}", "device=cpu")
    (folder,) = (tmp_path / "eval").iterdir()
    assert (folder / "test.csv").read_text() == (trained / "test.csv").read_text()
    assert "miou" in done.stdout


@pytest.mark.parametrize(
    ("option", "splits", "words"),
    [
        ("data.fold=1", {"train"}, "these are no test scores"),
        ("data.split_file={run}/split.csv", {"test"}, ""),
    ],
)
def test_eval_says_which_images_the_run_was_trained_on(trained, tmp_path, caplog, option, splits, words):
    option = option.format(run=trained)
    config = composed("eval", [f"run={trained}", "data=phantom", "data.n=20", option, "device=cpu", "overlays=0"])
    evaluate(config, tmp_path)
    with (tmp_path / "test.csv").open() as file:
        assert {row["split"] for row in csv.DictReader(file)} == splits
    assert words in caplog.text if words else "test scores" not in caplog.text


@pytest.mark.slow
def test_eval_on_other_data(trained, repository, tmp_path):
    run(repository, "eval.py", f"run={trained}", "data=phantom", "data.n=6", "data.fold=all", f"runs={tmp_path}")
    (folder,) = (tmp_path / "eval").iterdir()
    assert len((folder / "test.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train", ["data=hc18", "data.root=missing"], ["missing", "famseg data download hc18"]),
        ("train", [*SMALL, "data.batch_size=500"], ["data.batch_size=500", "smaller"]),
        ("train", [*SMALL, "data.size=[16,16]"], ["size=[16, 16]", "32"]),
        ("train", [*SMALL, "switch.lr=later"], ["switch.lr=later", "continue"]),
        ("train", [*SMALL, "trainer.max_epochs=0"], ["trainer.max_epochs=0", "1 or more"]),
        ("train", [*SMALL, "data.size=64"], ["data.size=64", "[a whole number, ...]"]),
        ("train", [*SMALL, "seed=-1"], ["seed=-1", "from 0"]),
        ("train", [*SMALL, "scheduler.warmup=abc"], ["scheduler.warmup=abc", "a number"]),
        ("train", [*SMALL, "optimizer.rates.init_lr=-1"], ["optimizer.rates.init_lr=-1", "positive"]),
        ("train", [*SMALL, "optimizer.build.weight_decay=-1"], ["adamw", "weight_decay"]),
        ("train", ["data=folder", "trainer=cpu"], ["data.root has no value"]),
        ("eval", [], ["run has no value"]),
        ("train", [*SMALL, "data.fold=9"], ["data.fold=9", "0 to 4"]),
        ("train", [*SMALL, "model.kernels=fast"], ["kernels", "fast", "auto"]),
        ("train", [*SMALL, "trainer.accelerator=gpuu"], ["gpuu"]),
        ("eval", ["run=missing"], ["missing", "no such file or folder"]),
        ("eval", ["run=README.md"], ["README.md", "not a readable checkpoint"]),
        ("eval", ["run=README.md", "tta=rotate"], ["tta=rotate", "flip"]),
        ("eval", ["run=README.md", "device=tpu9"], ["device tpu9", "cpu"]),
    ],
)
def test_mistakes_end_in_one_message(name, arguments, words, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    program = runpy.run_path(f"{name}.py")["main"]
    config = composed(name, [*arguments, f"output={tmp_path}"])
    with pytest.raises(CompactHydraException) as caught:
        program(config)
    assert all(word in str(caught.value) for word in words), caught.value
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


@pytest.mark.slow
def test_a_folder_without_rights_is_named(repository, tmp_path, fault):
    fault("a folder that cannot be written", "one sentence that names it, before anything starts")
    (tmp_path / "file").touch()
    done = run(repository, "train.py", f"runs={tmp_path}/file", check=False)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "runs=DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_prints_no_trace(repository, tmp_path):
    done = run(repository, "train.py", "data=hc18", "data.root=missing", f"runs={tmp_path}", check=False)
    assert done.returncode == 1
    assert "famseg data download hc18" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_dead_loader_process_is_named(repository, tmp_path, fault):
    fault("a loader process killed", "one sentence; resume=true goes on")
    command = [sys.executable, "train.py", *SMALL, "trainer.max_epochs=500", "data.num_workers=1", f"runs={tmp_path}"]
    process = subprocess.Popen([*command, "logger=none"], cwd=repository, stderr=subprocess.PIPE, text=True)
    table = tmp_path / "default"
    while not list(table.glob("*/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "A loader process died" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_in_one_sentence_and_resumes(repository, tmp_path, fault):
    fault("a real disk of 24 MiB that runs full", "one sentence; with space again, resume=true goes on")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        arguments = [*SMALL, "logger=none", f"runs={tmp_path}", "resume=true", "trainer.save_every_s=0"]
        full = run(repository, "train.py", *arguments, "trainer.keep_best=3", "trainer.max_epochs=4", check=False)
        assert full.returncode == 1
        assert "could not be written" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=400m", tmp_path], check=True)
        run(repository, "train.py", *arguments, "trainer.keep_best=3", "trainer.max_epochs=4")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.slow
def test_multirun_leaves_four_complete_folders(repository, tmp_path):
    sweep = ["-m", "optimizer=adamw,sgd", "scheduler=cos,step"]
    run(repository, "train.py", *sweep, *[a for a in SMALL if "scheduler" not in a], f"runs={tmp_path}", "switch.at=1")
    cells = [path for path in (tmp_path / "default").iterdir() if path.is_dir()]
    assert len(cells) == 4
    for cell in cells:
        assert json.loads((cell / "status.json").read_text())["state"] == "done"
        assert {"config.yaml", "split.csv", "metrics.csv", "test.csv"} <= {path.name for path in cell.iterdir()}
        assert len(list((cell / "wandb").glob("offline-run-*"))) == 1  # not one run for all
    assert len({(cell / "metrics.csv").read_text() for cell in cells}) == 4
