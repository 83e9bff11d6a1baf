"""Scores in the original size: classes by name, misses, millimetres."""

import math

import numpy as np
import pytest
import torch

from famseg.data.transforms import Letterbox
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


def test_perfect_prediction():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scorer.score(logits(ids(), HEAD), batch(ids()))
    totals = scorer.totals(rows)
    assert (totals["miou"], totals["dice_fb"], totals["missed_fb"]) == (1.0, 1.0, 0.0)
    assert rows[0]["hc_mm"] == pytest.approx(2 * math.pi * 16 * 0.5, rel=0.01)
    assert totals["hc_mae_mm"] == 0.0


def test_known_circumference_is_the_truth():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scorer.score(logits(ids(), HEAD), batch(ids(), truth={"hc_mm": 60.0}))
    assert rows[0]["hc_error_mm"] == pytest.approx(rows[0]["hc_mm_predicted"] - 60.0)


def test_size_of_the_original_not_of_the_network():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    big = ids(96, 128, 32)
    rows = scorer.score(logits(ids(), HEAD), batch(big))
    assert scorer.confusion.sum() == big.size
    assert rows[0]["dice_fb"] > 0.97


def test_femur_predicted_in_a_head_image_is_an_error():
    prediction = ids()
    prediction[:4] = 1
    scorer = ImageScorer(THREE, HEAD, Letterbox(SIZE))
    totals = scorer.totals(scorer.score(logits(prediction, THREE), batch(ids())))
    assert totals["iou_bg"] < 1.0
    assert "iou_fl" not in totals


@pytest.mark.parametrize("data", [HEAD, THREE])
def test_class_that_an_image_does_not_know_counts_as_background(data):
    prediction = ids()
    prediction[:4] = 1
    scorer = ImageScorer(THREE, data, Letterbox(SIZE))
    rows = scorer.score(logits(prediction, THREE), batch(ids(), known={"BG", "FB"}))
    totals = scorer.totals(rows)
    assert totals["miou"] == totals["iou_bg"] == totals["iou_fb"] == 1.0
    assert math.isnan(totals.get("iou_fl", math.nan))
    assert totals.get("false_alarm_fl", 0.0) == 0.0


@pytest.mark.parametrize("name", ["FL", "left_femur"])
def test_class_that_the_model_lacks_has_no_scores_and_is_not_in_the_mean(name):
    scorer = ImageScorer(HEAD, {"BG": 0, name: 1, "FB": 2}, Letterbox(SIZE))
    truth = ids()
    truth[0, :9] = 1
    totals = scorer.totals(scorer.score(logits(ids(), HEAD), batch(truth)))
    assert [key for key in totals if key.endswith(f"_{name.lower()}") and not math.isnan(totals[key])] == []
    assert totals["iou_fb"] == 1.0
    assert totals["miou"] == (totals["iou_bg"] + totals["iou_fb"]) / 2


def test_the_background_may_have_another_name():
    other = {"background": 0, "FB": 2}
    scorer = ImageScorer(other, HEAD, Letterbox(SIZE))
    totals = scorer.totals(scorer.score(logits(ids(), HEAD), batch(ids(), known={"BG", "FB"})))
    assert totals["miou"] == totals["iou_bg"] == totals["iou_fb"] == 1.0
    (row,) = ImageScorer(other, other, Letterbox(SIZE)).score(logits(ids(), HEAD), batch(ids()))
    assert [key for key in row if "background" in key] == ["dice_background", "iou_background"]


def test_missed_head_is_counted_and_costs():
    scorer = ImageScorer(HEAD, HEAD, Letterbox(SIZE))
    rows = scorer.score(logits(np.zeros(SIZE, np.uint8), HEAD), batch(ids()))
    totals = scorer.totals(rows)
    assert totals["missed_fb"] == 1.0
    assert totals["hd95_mm_fb"] == pytest.approx(math.hypot(*SIZE) * 0.5)
    assert math.isnan(rows[0]["hc_error_mm"])
