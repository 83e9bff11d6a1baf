"""Scores in the original size: classes by name, misses, millimetres."""

import math
import os
import sys

import numpy as np
import pytest
import torch

from famseg.data import progress
from famseg.data.transforms import Letterbox
from famseg.evaluation import scorer as scorer_module
from famseg.evaluation.scorer import ImageScorer

SIZE = (48, 64)
THREE = {"BG": 0, "FL": 1, "FB": 2}
HEAD = {"BG": 0, "FB": 2}


def ids(height=48, width=64, radius=16):
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 <= radius**2
    return np.where(inside, 2, 0).astype(np.uint8)


def logits(mask, classes):
    """Certain logits of a mask of ids, for a model with these classes."""
    maps = [torch.from_numpy(mask == number).float() for number in classes.values()]
    return 20 * torch.stack(maps)[None]


def batch(mask, spacing=0.5, truth=None, known=None):
    image = {"name": "a", "size": mask.shape, "spacing": spacing, "original_mask": mask, "truth": truth or {}}
    return {key: [value] for key, value in image.items()} | {"known_names": [known]}


def scored(scorer, logits, batch):
    scorer.add(logits, batch)
    return scorer.rows()


def test_perfect_prediction():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scored(scorer, logits(ids(), HEAD), batch(ids()))
    totals = scorer.totals(rows)
    assert (totals["miou"], totals["dice_fb"], totals["missed_fb"]) == (1.0, 1.0, 0.0)
    assert rows[0]["hc_mm"] == pytest.approx(2 * math.pi * 16 * 0.5, rel=0.01)
    assert totals["hc_mae_mm"] == 0.0


def test_known_circumference_is_the_truth():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scored(scorer, logits(ids(), HEAD), batch(ids(), truth={"hc_mm": 60.0}))
    assert rows[0]["hc_error_mm"] == pytest.approx(rows[0]["hc_mm_predicted"] - 60.0)


def test_size_of_the_original_not_of_the_network():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    big = ids(96, 128, 32)
    rows = scored(scorer, logits(ids(), HEAD), batch(big))
    assert scorer.confusion.sum() == big.size
    assert rows[0]["dice_fb"] > 0.97


def test_femur_predicted_in_a_head_image_is_an_error():
    prediction = ids()
    prediction[:4] = 1
    scorer = ImageScorer(THREE, HEAD, Letterbox(SIZE))
    totals = scorer.totals(scored(scorer, logits(prediction, THREE), batch(ids())))
    assert totals["iou_bg"] < 1.0
    assert "iou_fl" not in totals


@pytest.mark.parametrize("data", [HEAD, THREE])
def test_class_that_an_image_does_not_know_counts_as_background(data):
    prediction = ids()
    prediction[:4] = 1
    scorer = ImageScorer(THREE, data, Letterbox(SIZE))
    rows = scored(scorer, logits(prediction, THREE), batch(ids(), known={"BG", "FB"}))
    totals = scorer.totals(rows)
    assert totals["miou"] == totals["iou_bg"] == totals["iou_fb"] == 1.0
    assert math.isnan(totals.get("iou_fl", math.nan))
    assert totals.get("false_alarm_fl", 0.0) == 0.0


@pytest.mark.parametrize("name", ["FL", "left_femur"])
def test_class_that_the_model_lacks_has_no_scores_and_is_not_in_the_mean(name):
    scorer = ImageScorer(HEAD, {"BG": 0, name: 1, "FB": 2}, Letterbox(SIZE))
    truth = ids()
    truth[0, :9] = 1
    totals = scorer.totals(scored(scorer, logits(ids(), HEAD), batch(truth)))
    assert [key for key in totals if key.endswith(f"_{name.lower()}") and not math.isnan(totals[key])] == []
    assert totals["iou_fb"] == 1.0
    assert totals["miou"] == (totals["iou_bg"] + totals["iou_fb"]) / 2


def test_the_background_may_have_another_name():
    other = {"background": 0, "FB": 2}
    scorer = ImageScorer(other, HEAD, Letterbox(SIZE))
    totals = scorer.totals(scored(scorer, logits(ids(), HEAD), batch(ids(), known={"BG", "FB"})))
    assert totals["miou"] == totals["iou_bg"] == totals["iou_fb"] == 1.0
    (row,) = scored(ImageScorer(other, other, Letterbox(SIZE)), logits(ids(), HEAD), batch(ids()))
    assert [key for key in row if "background" in key] == ["dice_background", "iou_background"]


def test_missed_head_is_counted_and_costs():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scored(scorer, logits(np.zeros(SIZE, np.uint8), HEAD), batch(ids()))
    totals = scorer.totals(rows)
    assert totals["missed_fb"] == 1.0
    assert totals["hd95_mm_fb"] == pytest.approx(math.hypot(*SIZE) * 0.5)
    assert math.isnan(rows[0]["hc_error_mm"])


def heads(count):
    """Batches of one image each, all of them different, and of two sizes."""
    for i in range(count):
        truth = ids(48 + 48 * (i % 2), 64 + 64 * (i % 2), 10 + i)
        yield logits(ids(radius=12 + i), HEAD), batch(truth, truth={"hc_mm": 40.0 + i}) | {"name": [f"{i}.png"]}


@pytest.fixture
def two_cores(monkeypatch):
    """Blocks of four of `heads`, and processes for as few."""
    monkeypatch.setattr(progress, "cores", lambda: 2)
    monkeypatch.setattr(progress, "MANY", 3)
    monkeypatch.setattr(scorer_module, "BLOCK", 2 * (48 * 64 + 96 * 128))


@pytest.mark.skipif(sys.platform != "linux", reason="no forks here")
def test_processes_score_as_one_does(two_cores, monkeypatch):
    shared = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    monkeypatch.setattr(scorer_module, "forks", lambda: False)
    alone = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    for output, one in heads(11):
        shared.add(output, one)
        alone.add(output, one)
    assert repr(shared.rows()) == repr(alone.rows())  # to the last digit, NaN as NaN
    assert (shared.confusion == alone.confusion).all()
    assert [row["file"] for row in shared.rows()] == [f"{i}.png" for i in range(11)]


@pytest.mark.skipif(sys.platform != "linux", reason="no forks here")
def test_images_wait_for_others_where_there_are_processes(two_cores, monkeypatch):
    """And no longer than for a block, so that a large set does not gather in memory."""
    here, by = os.getpid(), []
    work = ImageScorer._score
    monkeypatch.setattr(ImageScorer, "_score", lambda self, pair: (work(self, pair)[0] | {"pid": os.getpid()}, 1))
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    for output, one in heads(5):
        scorer.add(output, one)
        by.append(int(scorer.confusion[0, 0]))
    assert by == [0, 0, 0, 4, 4]
    assert [row["pid"] == here for row in scorer.rows()] == [False] * 4 + [True]


def test_no_image_waits_where_there_are_none(two_cores, monkeypatch):
    monkeypatch.setattr(progress, "cores", lambda: 1)
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    scorer.add(logits(ids(), HEAD), batch(ids()))
    assert scorer.confusion.sum() == ids().size
