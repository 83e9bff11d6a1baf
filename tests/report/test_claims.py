import csv
import math

import pytest
from studies import write_cell

from famseg.files import write_table
from famseg.report.claims import compare_images, make_claims, per_image
from famseg.report.study import load_study

PLAIN = ("data=hc18", "switch=none", "scheduler=cos")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three seeds: U-Net is planted 5 points below FAMSeg, Swin is equal to it, ConvNeXt has one seed."""
    folder = tmp_path_factory.mktemp("runs") / "models"
    for seed in range(3):
        write_cell(folder, *PLAIN, "model=famseg_t", seed=seed, quality=0.95, images=80)
        write_cell(folder, *PLAIN, model="unet", seed=seed, quality=0.90, images=80)
        write_cell(folder, *PLAIN, model="swin", seed=seed, quality=0.95, images=80)
    write_cell(folder, *PLAIN, model="convnext", seed=0, quality=0.95, images=80)
    return load_study(folder)


def claim(study, other, unit):
    (found,) = (c for c in study.claims["models"] if c.other == other and c.unit == unit)
    return found


def test_a_planted_difference_is_claimed(study):
    for unit in ("seeds", "images"):
        found = claim(study, "U-Net", unit)
        assert found.claimed
        assert found.found.low > 0.02
        assert found.sentence().startswith("FAMSeg is better than U-Net: ")
    assert "80 images of 40 examinations" in claim(study, "U-Net", "images").sentence()


def test_no_difference_is_not(study):
    found = claim(study, "Swin", "seeds")
    assert not found.claimed
    assert found.sentence().startswith("No difference can be claimed between FAMSeg and Swin: mIoU ")
    assert "3 seeds" in found.sentence()


def test_one_seed_says_nothing(study):
    found = claim(study, "ConvNeXt", "seeds")
    assert math.isnan(found.p)
    assert found.sentence().startswith("Nothing can be said of FAMSeg and ConvNeXt: one seed each")


def test_one_seed_with_the_same_score(tmp_path):
    for model in ("famseg_t", "unet"):
        folder = write_cell(tmp_path, *PLAIN, f"model={model}", images=6)
        (row,) = csv.DictReader((folder / "test_scores.csv").open(newline=""))
        write_table(folder / "test_scores.csv", [row | {"miou": 0.5}])
    sentence = claim(load_study(tmp_path), "U-Net", "seeds").sentence()
    assert sentence == "Nothing can be said of FAMSeg and U-Net: one seed each (mIoU is the same)."


def test_p_is_corrected_over_the_table(study):
    tested = [c for c in study.claims["models"] if c.unit == "images"]
    smallest = min(tested, key=lambda c: c.found.p)
    assert smallest.p == pytest.approx(len(tested) * smallest.found.p)


def test_where_the_best_is_the_reference_p_is_corrected_for_all_pairs(tmp_path):
    for i, model in enumerate(("unet", "swin", "twins", "convnext")):
        write_cell(tmp_path, *PLAIN, model=model, quality=0.95 - 0.02 * i)
    study = load_study(tmp_path)
    table = study.tables[0]
    assert table.reference.name == "U-Net"
    assert any("corrected for all pairs" in note for note in table.notes)
    tested = sorted((c for c in study.claims["models"] if c.unit == "images"), key=lambda c: c.found.p)
    assert tested[0].p == pytest.approx(min(1, 6 * tested[0].found.p))  # of the six pairs of four


def test_the_better_one_is_named_whichever_is_the_reference(tmp_path):
    for seed in range(2):
        write_cell(tmp_path, *PLAIN, "model=famseg_t", seed=seed, quality=0.88)
        write_cell(tmp_path, *PLAIN, model="unet", seed=seed, quality=0.95)
    study = load_study(tmp_path)
    sentence = claim(study, "U-Net", "images").sentence()
    assert sentence.startswith("U-Net is better than FAMSeg: Dice FB +")


def test_images_are_paired_by_name(study):
    a, b = (row.setting for row in study.tables[0].rows if row.name in ("U-Net", "FAMSeg"))
    first, second = per_image(a, "dice_fb"), per_image(b, "dice_fb")
    wanted = sum(first[name] - second[name] for name in first) / len(first)
    assert compare_images(a, b, "dice_fb").difference == pytest.approx(wanted)


def change(folder, name, values):
    """Overwrite a column of a cell's test.csv, or add it."""
    rows = list(csv.DictReader((folder / "test.csv").open(newline="")))
    write_table(folder / "test.csv", [row | {name: value} for row, value in zip(rows, values, strict=True)])


def test_only_images_that_show_the_object_are_compared(tmp_path):
    """Eight images show it and two do not; U-Net is 2 points better where it is, and sees one where there is none."""
    for model, empty in (("famseg_t", math.nan), ("unet", 0.0)):
        folder = write_cell(tmp_path, *PLAIN, f"model={model}", images=10)
        dice = [0.90 + 0.001 * i + (0.02 if model == "unet" else 0) for i in range(8)]
        change(folder, "dice_fb", [*dice, empty, math.nan])
        change(folder, "size_fb", [0.1] * 8 + [0.0] * 2)
    settings = {row.name: row.setting for row in load_study(tmp_path).tables[0].rows}
    found = compare_images(settings["FAMSeg"], settings["U-Net"], "dice_fb")
    assert found.pairs == 8
    assert found.difference == pytest.approx(-0.02)


def test_of_older_tables_what_any_run_has_no_score_of_is_left_out(tmp_path):
    quiet = write_cell(tmp_path, *PLAIN, "model=famseg_t", images=6)
    alarm = write_cell(tmp_path, *PLAIN, model="unet", images=6)
    change(quiet, "dice_fb", [math.nan] + [0.9] * 5)
    change(alarm, "dice_fb", [0.0] + [0.9] * 5)
    settings = {row.name: row.setting for row in load_study(tmp_path).tables[0].rows}
    assert compare_images(settings["FAMSeg"], settings["U-Net"], "dice_fb").pairs == 5


def test_false_alarms_have_a_column(tmp_path):
    for model, alarms in (("famseg_t", 0), ("convnext", 3)):
        folder = write_cell(tmp_path, *PLAIN, f"model={model}", images=6)
        (row,) = csv.DictReader((folder / "test_scores.csv").open(newline=""))
        write_table(folder / "test_scores.csv", [row | {"false_alarm_fb": alarms}])
    further = load_study(tmp_path).tables[1]
    (column,) = (i for i, c in enumerate(further.columns) if c.score == "false_alarm_fb")
    assert [(line[column].text, line[column].place) for line in further.numbers()] == [("3.0", 2), ("0.0", 1)]


def test_a_table_with_one_setting_compares_nothing(tmp_path):
    write_cell(tmp_path)
    assert make_claims(load_study(tmp_path).tables[0]) == []


def with_sizes(folder, factor):
    """Give a cell's images the true sizes that test.csv has for each, times a factor: those of another data set."""
    change(folder, "size_fb", [factor * (i + 1) / 1000 for i in range(9)])


def test_images_of_one_name_in_two_data_sets_are_no_pairs(tmp_path):
    with_sizes(write_cell(tmp_path, *PLAIN, "model=famseg_t", images=9), 1)
    with_sizes(write_cell(tmp_path, *PLAIN, model="unet", images=9), 1)
    with_sizes(write_cell(tmp_path, *PLAIN, model="swin", images=9), 2)
    study = load_study(tmp_path)
    assert claim(study, "U-Net", "images").found.pairs == 9
    assert claim(study, "Swin", "images").sentence() == "FAMSeg and Swin share no images by which to compare Dice FB."
    assert any("2 different sets of images, which share 0" in line for line in study.remarks)
    (sizes,) = (table for table in study.tables if table.key == "sizes-fb")
    assert "(6 images)" in sizes.notes[0]  # terciles of 18 images
    assert "tested on different images" in sizes.notes[1]


def test_older_tables_without_sizes_are_paired_by_name(tmp_path):
    with_sizes(write_cell(tmp_path, *PLAIN, "model=famseg_t", images=9), 1)
    write_cell(tmp_path, *PLAIN, model="unet", images=9)
    assert claim(load_study(tmp_path), "U-Net", "images").found.pairs == 9
