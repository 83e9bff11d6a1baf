"""Scores that follow from a run's tables: time to a Dice, median error of HC, small and large objects apart."""

import csv
import math
from statistics import fmean

import numpy as np
import pytest
from studies import write_cell

from famseg.files import write_table
from famseg.report.derived import derived
from famseg.report.study import load_study


def test_the_time_to_97_percent():
    epochs = {"val/dice_bg": np.ones(4), "val/dice_fb": np.array([0.9, 0.96, 0.97, 0.98])}
    found = derived({}, epochs, {"train_seconds": np.array([5.0, 2.0, 2.0, 2.0])})
    assert found == {"epochs_to_97": 3, "seconds_to_97": 9}


def test_of_two_classes_the_mean_counts():
    epochs = {"val/dice_fl": np.array([0.99, 0.96]), "val/dice_fb": np.array([0.9, 0.98])}
    assert derived({}, epochs, {"train_seconds": np.array([1.0, 1.0])})["epochs_to_97"] == 2


def test_a_class_that_is_not_in_the_validation_does_not_count():
    epochs = {"val/dice_fl": np.full(3, math.nan), "val/dice_fb": np.array([0.9, math.nan, 0.98])}
    assert derived({}, epochs, {"train_seconds": np.ones(3)}) == {"epochs_to_97": 3, "seconds_to_97": 3}


def test_what_never_happened_or_is_not_known_is_no_number():
    never = derived({}, {"val/dice_fb": np.array([0.9])}, {"train_seconds": np.array([1.0])})
    assert all(math.isnan(value) for value in never.values())
    untimed = derived({}, {"val/dice_fb": np.array([0.9, 0.98])}, {"train_seconds": np.array([1.0])})
    assert untimed["epochs_to_97"] == 2
    assert math.isnan(untimed["seconds_to_97"])
    assert derived({}, {}, {}) == {}


def test_the_median_error_of_hc():
    errors = np.array([-4.0, 1.0, math.nan, 2.0])
    assert derived({"hc_error_mm": errors}, {}, {}) == {"hc_median_mm": 2}
    assert derived({"hc_error_mm": np.array([math.nan])}, {}, {}) == {}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_small_and_large_objects_apart(tmp_path):
    for model in ("famseg_t", "unet"):
        write_cell(tmp_path, f"model={model}", images=9)
    study = load_study(tmp_path)
    (table,) = [table for table in study.tables if table.key == "sizes-fb"]
    assert [column.score for column in table.columns] == [
        f"{score}_fb_{size}" for score in ("dice", "hd95_mm", "jaggedness") for size in ("small", "large")
    ]
    assert "small up to" in table.notes[0]
    (record,) = table.rows[0].setting.records
    images = sorted(rows(record.cell.folder / "test.csv"), key=lambda row: float(row["hc_mm"]))
    for part, size in ((images[:3], "small"), (images[6:], "large")):
        expected = fmean(float(row["hd95_mm_fb"]) for row in part)
        assert record.scores[f"hd95_mm_fb_{size}"] == pytest.approx(expected)


def test_the_report_says_how_many_runs_never_reached_it(tmp_path):
    for model, dice in (("famseg_t", (0.9, 0.975)), ("unet", (0.9, 0.95))):
        folder = write_cell(tmp_path, f"model={model}", images=9, epochs=2)
        table = [{"epoch": i, "train/loss": 1.0, "val/miou": 0.9, "val/dice_fb": d} for i, d in enumerate(dice)]
        write_table(folder / "metrics.csv", table)
    cost = load_study(tmp_path).tables[-1]
    assert [column.title for column in cost.columns][-2:] == ["epochs to Dice 97%", "s to Dice 97%"]
    assert [number[-2].text for number in cost.numbers()].count("2.0") == 1
    assert "1 of 2 runs never had it" in " ".join(cost.notes)


def test_rates_after_a_switch_tell_rows_apart(tmp_path):
    write_cell(tmp_path, "scheduler=cos", "switch=none", images=9)
    for rates in ("continue", "restart"):
        write_cell(tmp_path, "scheduler=cos", "switch=sgd_at_150", f"switch.lr={rates}", images=9)
    study = load_study(tmp_path)
    names = [row.name for row in study.tables[0].rows if row.setting]
    assert study.tables[0].key == "optimizers"
    assert {"AdamW + cos, then SGD (continue)", "AdamW + cos, then SGD (restart)"} <= set(names)
    assert len(names) == 3
