import math

import numpy as np
import pytest

from famseg.inference import Segmentation
from famseg.prediction.findings import examine
from famseg.prediction.readout import CALIPER, LONG_SIDE, WARNING, draw_readout

CLASSES = {"BG": 0, "FL": 1, "FB": 2}


def readout(mask, spacing=0.25, weeks=math.nan):
    segmentation = Segmentation(mask, np.ones(mask.shape, np.float32))
    findings = examine(segmentation, CLASSES, spacing, weeks)
    return draw_readout(np.full(mask.shape, 60, np.uint8), mask, findings, CLASSES)


def has(picture, colour):
    return (picture == np.array(colour, np.uint8)).all(-1).any()


def head(height=180, width=240):
    y, x = np.mgrid[:height, :width]
    return np.where(((x - 120) / 60) ** 2 + ((y - 90) / 45) ** 2 <= 1, 2, 0).astype(np.uint8)


def test_small_images_are_enlarged_and_large_ones_are_not_shrunk():
    assert readout(head()).shape[1] == LONG_SIDE
    assert readout(head())[:720].shape == (720, 960, 3)  # the image is above the panel
    assert readout(np.zeros((200, 1500), np.uint8)).shape[1] == 1500


def test_calipers_and_contour_are_where_the_head_is():
    picture = readout(head())
    above = picture[:720]
    yellow = np.argwhere((above == CALIPER).all(-1))
    assert yellow.min(axis=0) == pytest.approx([(90 - 45) * 4, (120 - 60) * 4], abs=40)  # crosses and names stick out
    green = np.argwhere((above[..., 1] > 180) & (above[..., 0] < 100))
    assert green.min(axis=0) == pytest.approx([45 * 4, 60 * 4], abs=6)
    assert green.max(axis=0) == pytest.approx([135 * 4, 180 * 4], abs=6)


def test_an_unknown_pixel_size_is_a_warning_and_gives_pixels():
    assert has(readout(head(), math.nan), WARNING)
    assert not has(readout(head(), 0.75), WARNING)


@pytest.mark.parametrize("shape", [(32, 32), (32, 3000), (3000, 32)])
@pytest.mark.parametrize("value", [0, 1, 2])
def test_odd_masks_and_shapes_are_drawn(shape, value):
    picture = readout(np.full(shape, value, np.uint8), 0.1, 20.0)
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= LONG_SIDE
