import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from famseg.biometry.ellipse import Ellipse
from famseg.biometry.quality import Flag, main_object

HEAD = Ellipse(60, 50, 40, 30, 0.3).mask(100, 120)


def test_a_clean_object_comes_back_without_flags():
    largest, flags = main_object(HEAD.astype(np.uint8) * 2)
    assert np.array_equal(largest, HEAD)
    assert flags == []


def test_empty():
    assert main_object(np.zeros((5, 5)))[1] == [Flag.EMPTY]


def test_largest_component_is_kept_and_the_others_are_reported():
    crowd = HEAD.copy()
    crowd[2:12, 2:12] = True
    largest, flags = main_object(crowd)
    assert np.array_equal(largest, HEAD)
    assert flags == [Flag.SEVERAL_COMPONENTS]


def test_specks_are_not_worth_a_flag():
    dusty = HEAD.copy()
    dusty[3, 3] = dusty[90, 110] = True
    assert main_object(dusty)[1] == []


@pytest.mark.parametrize("cut", [np.s_[50:], np.s_[:50], np.s_[:, 60:], np.s_[:, :60]])
def test_each_border_is_noticed(cut):
    assert main_object(HEAD[cut])[1] == [Flag.TOUCHES_BORDER]


def test_holes_are_filled():
    rng = np.random.default_rng(0)
    leaky = HEAD & (rng.random(HEAD.shape) > 0.1)
    largest, _ = main_object(leaky)
    filled = binary_fill_holes(leaky)
    assert np.array_equal(largest & HEAD, largest)
    assert filled.sum() - largest.sum() < 15  # single pixels torn off the edge


def test_shape_is_checked():
    with pytest.raises(ValueError, match="two dimensions"):
        main_object(np.zeros((3, 3, 3)))
