"""What wandb is told, read back from its offline records."""

import json
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from studies import REVISION, write_cell
from wandb_records import runs_in

from famseg import loggers
from famseg.loggers import finish_wandb, log_classes, log_panels, run_labels, wandb
from famseg.overlays import Panel
from famseg.study.cells import read_cell

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two seeds of one setting recorded in this process, the second after a failure, and one that was left open."""
    study = tmp_path_factory.mktemp("runs") / "table2"
    folders = [write_cell(study, "optimizer=adam", "study=table2", seed=seed, state="running") for seed in (0, 1)]
    for number, folder in enumerate(folders):
        logger = wandb(save_dir=str(folder), project="famseg", group="table2")
        logger.log_metrics({"val/miou": 0.5 + number, "epoch": 0}, step=1)
        if number == 0:
            image = np.full((8, 10), 100, np.uint8)
            mask = np.zeros((8, 10), np.uint8)
            mask[2:5, 3:7] = 2
            log_panels([logger], "test/extremes", [Panel(image, mask, mask // 2, "a.png")], {"BG": 0, "FL": 1, "FB": 2})
            log_classes([logger], "test/classes", {"miou": 0.9, "iou_bg": 0.9, "iou_fb": 0.8, "hd95_mm_fb": 2.0})
        finish_wandb(exit_code=number)
    return folders


def test_each_cell_of_a_process_is_a_run_of_its_own(recorded):
    for number, folder in enumerate(recorded):
        (run,) = runs_in(folder)
        assert run.values("val/miou") == [0.5 + number]
        assert run.exit_codes == [number]


def test_runs_are_grouped_by_study_and_setting_with_the_seed_as_job_type(recorded):
    first, second = (runs_in(folder)[0].run for folder in recorded)
    assert first.run_group == second.run_group
    assert first.run_group.startswith("table2/optimizer-adam+")
    assert [first.job_type, second.job_type] == ["seed 0", "seed 1"]
    assert first.display_name == recorded[0].name
    assert list(first.tags) == ["table2"]


def test_configuration_and_revision_are_recorded(recorded):
    (run,) = runs_in(recorded[1])
    assert run.config["seed"] == 1
    assert run.config["optimizer"]["name"] == "adam"
    assert run.config["choices"]["optimizer"] == "adam"
    assert run.config["trainer"]["max_epochs"] == 200  # resolved
    assert run.config["revision"] == REVISION
    assert run.config["cell"] == read_cell(recorded[1]).identity


def test_overlays_are_images_with_layers(recorded):
    (run,) = runs_in(recorded[0])
    (names,) = run.values("test/extremes.filenames")
    assert (cv2.imread(str(run.files / names[0]), cv2.IMREAD_GRAYSCALE) == 100).all()
    (layers,) = run.values("test/extremes.all_masks")
    prediction = cv2.imread(str(run.files / layers[0]["prediction"]["path"]), cv2.IMREAD_UNCHANGED)
    truth = cv2.imread(str(run.files / layers[0]["truth"]["path"]), cv2.IMREAD_UNCHANGED)
    assert prediction.reshape(8, 10, -1)[3, 4, 0] == 2
    assert truth.reshape(8, 10, -1)[3, 4, 0] == 1
    assert run.values("test/extremes.captions") == [["a.png"]]


def test_a_table_has_a_row_per_class(recorded):
    (run,) = runs_in(recorded[0])
    (path,) = run.values("test/classes.path")
    table = json.loads((run.files / path).read_text())
    assert table["columns"] == ["class", "iou", "hd95_mm"]
    assert table["data"] == [["BG", 0.9, None], ["FB", 0.8, 2.0]]


def test_a_table_has_classes_of_several_words(monkeypatch):
    tables = []
    logger = SimpleNamespace(log_table=lambda key, columns, data: tables.append((columns, data)))
    monkeypatch.setattr(loggers, "_wandb_loggers", lambda given: [logger])
    totals = {"iou_bg": 0.9, "iou_head": 0.8, "iou_fetal_head": 0.7, "hd95_mm_head": 2.0, "hd95_mm_fetal_head": 3.0}
    log_classes([], "test/classes", totals)
    rows = [["BG", 0.9, None], ["HEAD", 0.8, 2.0], ["FETAL_HEAD", 0.7, 3.0]]
    assert tables == [(["class", "iou", "hd95_mm"], rows)]


def test_a_resumed_run_keeps_its_id(recorded, tmp_path):
    folder = write_cell(tmp_path, state="running")
    for _ in range(2):
        wandb(save_dir=str(folder), project="famseg")
        finish_wandb(exit_code=0)
    first, second = runs_in(folder)
    assert first.run.run_id == second.run.run_id


def test_a_run_left_open_does_not_swallow_the_next(tmp_path):
    folders = [write_cell(tmp_path, seed=seed, state="running") for seed in (0, 1)]
    for number, folder in enumerate(folders):
        wandb(save_dir=str(folder), project="famseg").log_metrics({"score": number})
    finish_wandb(exit_code=0)
    assert [runs_in(folder)[0].values("score") for folder in folders] == [[0], [1]]
    assert [runs_in(folder)[0].exit_codes for folder in folders] == [[1], [0]]


def test_folds_are_one_group(tmp_path):
    labels = [run_labels(read_cell(write_cell(tmp_path, seed=1, fold=fold, state="running")), "cv") for fold in (0, 2)]
    assert labels[0]["group"] == labels[1]["group"]
    assert [label["job_type"] for label in labels] == ["seed 1, fold 0", "seed 1, fold 2"]


def test_labels_without_a_readable_folder(tmp_path):
    labels = run_labels(read_cell(tmp_path), "mine")
    assert labels["group"].startswith("mine/")
    assert labels["job_type"] == "seed ?"


def test_a_dead_wandb_stops_no_run(tmp_path, caplog, monkeypatch):
    def dead(*args, **kwargs):
        raise RuntimeError("no wandb today")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.__init__", dead)
    with caplog.at_level(logging.WARNING):
        assert wandb(save_dir=str(tmp_path)) is None
    assert "no wandb today" in caplog.text
