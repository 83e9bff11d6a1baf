"""IoU and Dice from a confusion matrix."""

import math

import numpy as np
import pytest

from famseg.metrics.confusion import class_scores, confusion_matrix, dice, iou

TRUTH = np.array([[0, 0, 1], [2, 2, 2]])
PREDICTION = np.array([[0, 1, 1], [2, 2, 0]])


def test_matrix_has_the_truth_in_its_rows():
    assert confusion_matrix(TRUTH, PREDICTION, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


@pytest.mark.parametrize("classes", [16, 17])
def test_as_many_classes_as_a_byte_has_pairs_and_one_more(classes):
    truth, prediction = np.divmod(np.arange(classes**2).astype(np.uint16), classes)
    matrix = confusion_matrix(truth.astype(np.uint8), prediction.astype(np.uint8), classes)
    assert (matrix == 1).all()


def test_iou_and_dice_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTION, 3)
    assert iou(matrix) == pytest.approx([1 / 3, 1 / 2, 2 / 3])
    assert dice(matrix) == pytest.approx([1 / 2, 2 / 3, 4 / 5])


def test_absent_class_is_nan_and_not_in_the_mean():
    scores = class_scores(confusion_matrix(np.array([0, 2]), np.array([1, 2]), 3), ["BG", "FL", "FB"])
    assert math.isnan(scores["iou_fl"])
    assert (scores["iou_bg"], scores["iou_fb"], scores["miou"]) == (0.0, 1.0, 0.5)
