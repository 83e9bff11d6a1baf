"""The whole of `famseg report`: its files, its page in a real browser, its pictures from real checkpoints."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from studies import THREE, write_cell

from famseg import cli
from famseg.report.charts import Dots, Panel, Point
from famseg.report.examples import zoom_window
from famseg.report.sizes import score_sizes
from famseg.report.study import load_study


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "table2"
    for seed in (0, 1):
        for optimizer in ("sgd", "adamw"):
            for decay in ("step", "cos"):
                options = (f"optimizer={optimizer}", f"scheduler={decay}", "switch=none")
                write_cell(folder, *options, seed=seed, classes=THREE, images=18, epochs=6)
    assert cli.main(["report", str(folder), "--no-images", "--price", "3"]) == 0
    return folder / "report"


def test_every_file_is_there(reported):
    names = {path.name for path in reported.iterdir()}
    figures = {"loss", "validation", "optimizers-classes", "optimizers-differences", "sizes-fl", "sizes-fb"}
    wanted = {"index.html", "tables.md", "tables.tex", "cells.csv"}
    assert names == wanted | {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")}


def test_cells_csv_has_a_row_per_run(reported):
    with (reported / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {(row["optimizer"], row["seed"]) for row in rows} == {(o, s) for o in ("sgd", "adamw") for s in "01"}
    assert all(0 < float(row["miou"]) < 1 for row in rows)


def test_the_page_holds_everything_itself(reported):
    page = (reported / "index.html").read_text()
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]+", body)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL).group(1))
    assert {"loss", "optimizers-classes"} <= figures.keys()
    loss = figures["loss"]["data"]
    assert len([trace for trace in loss if "fill" not in trace]) == 4
    assert all(trace["mode"] == "lines" for trace in loss)  # no dots along the bands


def test_the_curves_are_the_mean_over_seeds(reported):
    page = (reported / "index.html").read_text()
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL).group(1))
    runs = [load_study(reported.parent).settings[0].records[i].epochs["train/loss"] for i in (0, 1)]
    drawn = next(t for t in figures["loss"]["data"] if "fill" not in t and t["name"] == "SGD + step")
    assert drawn["y"] == pytest.approx(np.mean(runs, axis=0))
    assert drawn["x"] == [1, 2, 3, 4, 5, 6]


def test_a_curve_goes_on_over_epochs_without_validation(tmp_path):
    metrics = write_cell(tmp_path, classes=THREE, images=18, epochs=6) / "metrics.csv"
    lines = metrics.read_text().splitlines()
    skipped = [line.rpartition(",")[0] + "," if i % 2 else line for i, line in enumerate(lines)]
    metrics.write_text("\n".join(skipped) + "\n")
    study = load_study(tmp_path)
    curves = {chart.key: chart.lines[0] for chart in study.charts if chart.key in ("loss", "validation")}
    assert curves["loss"].x.tolist() == [1, 2, 3, 4, 5, 6]
    assert curves["validation"].x.tolist() == [2, 4, 6]
    assert np.isfinite(curves["validation"].y).all()
    assert not study.faults


def test_curves_of_a_study_of_several_tables_are_drawn_table_by_table(tmp_path):
    for model in ("famseg_t", "unet", "convnext"):
        write_cell(tmp_path, model=model, classes=THREE, images=6, epochs=3)
    for decay in ("step", "cos"):
        options = ("optimizer=sgd", f"scheduler={decay}", "switch=none")
        write_cell(tmp_path, *options, model="famseg_t", classes=THREE, images=6, epochs=3)
    charts = {chart.key: chart for chart in load_study(tmp_path).charts}
    assert "loss" not in charts
    assert {line.name for line in charts["loss-models"].lines} == {"FAMSeg", "U-Net", "ConvNeXt"}
    assert {"SGD + step", "SGD + cos"} <= {line.name for line in charts["validation-optimizers"].lines}
    for key in ("loss-models", "validation-models"):
        styles = [(line.colour, line.dash) for line in charts[key].lines]
        assert len(set(styles)) == len(styles)


def test_a_report_takes_away_what_an_earlier_one_drew(tmp_path):
    write_cell(tmp_path, classes=THREE, images=6, epochs=3)
    report = tmp_path / "report"
    report.mkdir()
    for name in ("loss-models.png", "loss-models.svg", "examples.png", "notes.txt"):
        (report / name).touch()
    assert cli.main(["report", str(tmp_path), "--no-images"]) == 0
    names = {path.name for path in report.iterdir()}
    assert {"loss.png", "examples.png", "notes.txt"} <= names
    assert not {"loss-models.png", "loss-models.svg"} & names


def test_money_and_time(reported):
    text = (reported / "tables.md").read_text().partition("## Time and cost")[2]
    assert "0.13 hours of one device" in text  # 8 runs of 60 s
    assert "At 3 an hour: 0.40" in text
    assert "Energy: not available" in text


def test_small_objects_apart(tmp_path):
    write_cell(tmp_path, classes=THREE, images=18, epochs=2)
    study = load_study(tmp_path)
    femur = next(scores for scores in score_sizes(study.settings) if scores.label == "FL")
    assert femur.images == (6, 6, 6)
    images = study.records[0].images
    smallest = np.argsort(images.columns["fl_mm"])[:6]
    mean, _ = femur.rows[0][1][0]
    assert mean == pytest.approx(images.columns["dice_fl"][smallest].mean())


def test_a_panel_has_room_around_all_that_it_shows():
    points = [Point("a", 5.0, 4.0, 6.0), Point("b", 9.0, float("nan"), float("nan"), (2.0,))]
    ((low, high),) = Dots("k", "t", [Panel("p", "u", "#000000", points)]).ranges()
    assert low < 2.0
    assert high > 9.0


def test_the_zoom_is_on_the_border_where_the_predictions_are_wrong():
    truth = np.zeros((64, 96), np.uint8)
    truth[20:40, 20:70] = 2
    wrong = truth.copy()
    wrong[30:44, 60:80] = 2
    rows, columns = zoom_window(truth, [truth, wrong])
    assert rows.start <= 40 <= rows.stop
    assert columns.start <= 70 <= columns.stop
    assert rows.stop - rows.start == columns.stop - columns.start == 16


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Debian's chromium and chromium-driver")
def test_the_page_in_a_browser(reported, repository, tmp_path):
    program = repository / "docs" / "figures" / "report.py"
    command = [sys.executable, program, "--report", reported, "--out", tmp_path / "page.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]  # all figures are drawn
    assert done.stdout == ""  # and the browser has nothing to complain of
    assert (tmp_path / "page.png").stat().st_size > 50_000


@pytest.mark.slow
def test_pictures_are_predicted_by_the_checkpoints(repository, tmp_path):
    small = ["model=famseg_n", "data.size=[32,32]", "data.n=20", "data.batch_size=4", "trainer=cpu", "logger=none"]
    small += ["trainer.max_epochs=1", "trainer.progress=false", "switch=none", "study=s", f"runs={tmp_path}"]
    command = [sys.executable, "train.py", "-m", *small, "scheduler=cos,step"]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=250)
    folder = Path(tmp_path) / "s"
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report" / "examples.png").stat().st_size > 10_000
    assert "data:image/png;base64" in (folder / "report" / "index.html").read_text()


def test_runs_that_share_a_device_need_it_once(tmp_path):
    """Three runs of a minute: two side by side on GPU 0, half a minute apart, one on GPU 1."""
    for seed, (gpu, later) in enumerate((("0", 0), ("0", 30), ("1", 0))):
        cell = write_cell(tmp_path, seed=seed, images=6, updated=1_700_000_000.0 + later)
        (cell / "spans.jsonl").write_text(json.dumps({"start": 1.0, "gpus": gpu}) + "\n")
    notes = load_study(tmp_path, price=60).tables[-1].notes
    assert notes[0] == "All finished runs together: 0.04 hours of one device."  # 150 s
    assert "add up to 0.05 hours" in notes[1]  # 180 s
    assert notes[2] == "At 60 an hour: 2.50 in all."
