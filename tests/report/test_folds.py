"""Folds of a cross-validation are repeats of one setting, and together they test every image."""

import csv
import math
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from studies import write_cell

from famseg import cli
from famseg.data.source import Sample
from famseg.report import examples
from famseg.report.claims import compare_images, per_image
from famseg.report.examples import predict_examples
from famseg.report.markup import markdown
from famseg.report.study import load_study

PLAIN = ("data=hc18", "switch=none", "scheduler=cos")
MODELS = {"famseg_t": 0.95, "unet": 0.90}


def write_model(folder, model, *, drop=(), **options):
    """A cell of a model, FAMSeg planted 5 points above U-Net; `drop` is not written."""
    if (model, options.get("seed", 0), options.get("fold")) in drop:
        return None
    which = {"model": model} if model == "unet" else {}
    words = PLAIN if which else (*PLAIN, f"model={model}")
    return write_cell(folder, *words, quality=MODELS[model], **which, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models in five folds of 40 images."""
    folder = tmp_path_factory.mktemp("runs") / "cv"
    for model in MODELS:
        for fold in range(5):
            write_model(folder, model, fold=fold)
    return folder


@pytest.fixture(scope="module")
def study(folder):
    return load_study(folder)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Two seeds of two folds; U-Net lacks seed 1 of fold 1."""
    folder = tmp_path_factory.mktemp("runs") / "seeded"
    for model in MODELS:
        for seed in (0, 1):
            for fold in (0, 1):
                write_model(folder, model, seed=seed, fold=fold, drop={("unet", 1, 1)})
    return folder


def dice(*cells):
    """Image -> Dice of the head, as the cells' test.csv have it; the mean where several have the image."""
    found = {}
    for cell in cells:
        with (cell / "test.csv").open() as file:
            for row in csv.DictReader(file):
                found.setdefault(row["file"], []).append(float(row["dice_fb"]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def named(study):
    return {study.names[id(setting)]: setting for setting in study.settings}


def test_five_folds_are_one_row(study):
    table = study.tables[0]
    assert table.key == "models"
    ours = [row for row in table.rows if row.finished]
    assert [row.name for row in ours] == ["U-Net", "FAMSeg"]
    assert [[record.fold for record in row.setting.records] for row in ours] == [[0, 1, 2, 3, 4]] * 2
    values = [100 * record.scores["miou"] for record in ours[0].setting.records]
    number = table.numbers()[table.rows.index(ours[0])][-1]
    assert (number.text, number.spread) == (f"{np.mean(values):.2f}", f"{np.std(values, ddof=1):.2f}")


def test_every_image_is_compared_with_the_network_of_its_own_fold(folder, study):
    settings = named(study)
    a = dice(*sorted(folder.glob("run,*famseg_t*")))
    b = dice(*sorted(folder.glob("unet,*")))
    found = compare_images(settings["FAMSeg"], settings["U-Net"], "dice_fb")
    assert (len(a), found.pairs, found.units) == (40, 40, 20)
    assert found.difference == pytest.approx(np.mean([a[name] - b[name] for name in a]))
    (claim,) = study.claims["models"]
    assert claim.sentence().startswith("FAMSeg is better than U-Net: Dice FB +")


def test_nothing_is_claimed_over_folds_and_it_is_said_why(study):
    assert {claim.unit for claims in study.claims.values() for claim in claims} == {"images"}
    assert any("folds share training images" in note and "claimed over folds" in note for note in study.tables[0].notes)


def test_folds_are_called_folds(study):
    words = [*map(markdown, study.tables), *(chart.caption for chart in study.charts), *study.remarks]
    assert "seed" not in " ".join(words)
    assert "standard deviation over folds" in words[0]
    assert sum("over folds" in chart.caption for chart in study.charts) >= 3


def test_complete_folds_are_no_gap(study):
    assert study.faults == []
    assert not any("different sets of images" in line or " of 5 " in line for line in study.remarks)


def test_seeds_are_still_called_seeds(tmp_path):
    for model in MODELS:
        for seed in (0, 1):
            write_model(tmp_path, model, seed=seed)
    study = load_study(tmp_path)
    words = " ".join([*map(markdown, study.tables), *(chart.caption for chart in study.charts)])
    assert "fold" not in words
    assert "standard deviation over seeds" in words
    assert {claim.unit for claim in study.claims["models"]} == {"seeds", "images"}


def test_a_missing_fold_is_named_and_its_images_are_not_compared(tmp_path):
    for model in MODELS:
        for fold in range(5):
            write_model(tmp_path, model, fold=fold, drop={("unet", 0, 3)})
    study = load_study(tmp_path)
    assert "model=unet: 4 of 5 folds, without fold 3; its mean and spread are of these." in study.remarks
    settings = named(study)
    assert compare_images(settings["FAMSeg"], settings["U-Net"], "dice_fb").pairs == 32


def test_a_fold_that_no_setting_has_is_missing_too(tmp_path):
    for model in MODELS:
        for fold in (0, 1, 2, 4):
            write_model(tmp_path, model, fold=fold)
    assert sum("4 of 5 folds, without fold 3" in line for line in load_study(tmp_path).remarks) == 2


def test_seeds_and_folds(seeded):
    study = load_study(seeded)
    words = " ".join([*study.tables[0].notes, *(chart.caption for chart in study.charts)])
    assert "standard deviation over seeds and folds" in words
    assert {claim.unit for claim in study.claims["models"]} == {"images"}
    line = next(line for line in study.remarks if line.startswith("model=unet"))
    assert line.startswith(
        "model=unet: 3 of 10 runs, without seed 0 fold 2, seed 0 fold 3, seed 0 fold 4, seed 1 fold 1,"
    )


def test_an_image_is_the_mean_over_the_seeds_of_its_fold(seeded):
    settings = named(load_study(seeded))
    found = per_image(settings["FAMSeg"], "dice_fb")
    assert found == pytest.approx(dice(*seeded.glob("run,*famseg_t*")))
    assert len(found) == 16
    assert per_image(settings["U-Net"], "dice_fb") == pytest.approx(dice(*seeded.glob("unet,*")))


def test_without_folds_an_image_counts_if_all_seeds_have_tested_it(tmp_path):
    write_cell(tmp_path, seed=0, images=8, epochs=2)
    write_cell(tmp_path, seed=1, images=6, epochs=2)
    study = load_study(tmp_path)
    (setting,) = study.settings
    assert len(per_image(setting, "dice_fb")) == 6
    assert any("2 different sets of images, which share 6" in line for line in study.remarks)


def test_tests_of_one_fold_that_differ_are_said(tmp_path):
    for model, images in zip(MODELS, (40, 30), strict=True):
        for fold in (0, 1):
            write_model(tmp_path, model, fold=fold, images=images)
    lines = [line for line in load_study(tmp_path).remarks if "different sets of images" in line]
    assert [line.partition(" were")[0] for line in lines] == ["The cells of fold 0", "The cells of fold 1"]
    assert "share 6;" in lines[0]


def test_other_deals_are_other_settings(tmp_path):
    for deal in ("data.folds=4", "data.split_seed=1", "data.folds=5"):
        for fold in (0, 1):
            write_cell(tmp_path, deal, fold=fold, epochs=2)
    names = {setting.name for setting in load_study(tmp_path).settings}
    assert len(names) == 3
    assert not any("data.fold=" in name for name in names)


def test_folds_of_a_split_file_are_settings(tmp_path):
    for file in ("a.csv", "b.csv"):
        write_cell(tmp_path, f"data.split_file={file}", epochs=2)
    study = load_study(tmp_path)
    assert {setting.name for setting in study.settings} == {"data.split_file=a.csv", "data.split_file=b.csv"}
    assert {record.fold for record in study.records} == {None}


def test_files_and_page(folder):
    assert cli.main(["report", str(folder), "--no-images"]) == 0
    with (folder / "report" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["fold"] for row in rows) == sorted([*"01234"] * 2)
    page = (folder / "report" / "index.html").read_text()
    assert "<dt>folds</dt><dd>0, 1, 2, 3, 4</dd>" in page
    assert "<dt>test images</dt><dd>40</dd>" in page
    assert '<th class="sortable">fold</th>' in page
    assert "paired t-test" not in page


def test_files_of_a_study_without_folds_have_no_column_of_them(tmp_path):
    write_cell(tmp_path, epochs=2)
    assert cli.main(["report", str(tmp_path), "--no-images"]) == 0
    assert ",fold," not in (tmp_path / "report" / "cells.csv").read_text().splitlines()[0]
    assert '<th class="sortable">fold</th>' not in (tmp_path / "report" / "index.html").read_text()


def test_example_images_are_predicted_by_the_network_of_their_own_fold(study, monkeypatch):
    """A mask holds the number of the fold whose checkpoint made it; an image, that of the fold that tests it."""

    def sample(i):
        return Sample(f"{i // 2:03d}_{i % 2}.png", "g", np.full((8, 8), i // 2 % 5, np.uint8), None, math.nan)

    class Source(list):
        @property
        def names(self):
            return [each.name for each in self]

        classes = MappingProxyType({"BG": 0, "FB": 1})

    def load(folder):
        fold = next(record.fold for record in study.records if record.cell.folder == folder)
        return SimpleNamespace(mask=lambda image: np.full(image.shape, fold, np.uint8))

    data = SimpleNamespace(source=Source(map(sample, range(40))))
    monkeypatch.setattr(examples, "load_predictor", load)
    monkeypatch.setattr(examples, "data_of_run", lambda folder, predictor: data)
    remarks = []
    found = predict_examples(study.settings, study.names, remarks)
    assert remarks == []
    assert len(found.columns) == 2
    assert len(found.samples) >= 1
    for sample_, masks in zip(found.samples, found.masks, strict=True):
        assert [mask.tolist() for mask in masks] == [sample_.image.tolist()] * 2
