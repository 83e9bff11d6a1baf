import math

import numpy as np
import pytest

from famseg.biometry import Ellipse
from famseg.metrics.jaggedness import jaggedness

BLOCKS = (1, 2, 4, 8, 16)


def head(x, y, a=150.0, b=120.0):
    return Ellipse(250.3, 220.2, a, b, 0.4).distances(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape) <= 0


def femur(x, y, angle=0.5, length=180, thickness=14, bow=6):
    dx, dy = x - 250.3, y - 220.2
    u, v = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    half = (length - thickness) / 2
    beside = v - bow * (1 - np.clip(u / half, -1, 1) ** 2)
    return np.hypot(np.maximum(abs(u) - half, 0), beside) <= thickness / 2


def in_blocks(shape, block, turn=0.0, **options):
    """A shape redrawn in blocks, the blocky drawing turned by an angle."""
    y, x = np.mgrid[:440, :500].astype(float)
    c, s = math.cos(turn), math.sin(turn)
    x, y = (x - 250) * c + (y - 220) * s + 250, (y - 220) * c - (x - 250) * s + 220
    corner = (block - 1) / 2
    return shape(np.floor(x / block) * block + corner, np.floor(y / block) * block + corner, **options)


@pytest.mark.parametrize("shape", [head, femur])
def test_a_smooth_contour_has_none(shape):
    for angle in (0.0, 0.2, 0.8):
        assert jaggedness(in_blocks(shape, 1)) < 0.05
        assert jaggedness(np.rot90(in_blocks(femur, 1, angle=angle))) < 0.05


def test_pointed_convex_shapes_have_none():
    triangle = np.tri(120, dtype=bool)
    assert jaggedness(np.pad(triangle, 9)) < 0.05


@pytest.mark.parametrize("shape", [head, femur])
def test_it_grows_with_the_size_of_the_blocks(shape):
    found = [jaggedness(in_blocks(shape, block)) for block in BLOCKS]
    assert (np.diff(found) > 0.05).all()
    assert found[3] / found[0] > 20


@pytest.mark.parametrize(("block", "within"), [(4, 0.08), (8, 0.05), (16, 0.05)])
def test_turning_the_drawing_changes_little(block, within):
    found = np.array([jaggedness(in_blocks(head, block, turn)) for turn in (0, 0.1, 0.3, 0.5, 0.8, 1.2)])
    assert abs(found / found.mean() - 1).max() < within


def test_quarter_turns_and_mirrors_change_nothing():
    mask = in_blocks(femur, 4)
    others = [np.rot90(mask), np.rot90(mask, 2), mask[:, ::-1], mask[::-1]]
    assert [jaggedness(m) for m in others] == pytest.approx([jaggedness(mask)] * 4, rel=0.02)


@pytest.mark.parametrize("block", [4, 8, 16])
def test_it_depends_on_the_blocks_and_hardly_on_the_size_of_the_object(block):
    found = np.array([jaggedness(in_blocks(head, block, a=a, b=0.8 * a)) for a in (90, 120, 150, 190)])
    assert abs(found / found.mean() - 1).max() < 0.08


def test_overlap_does_not_see_what_it_sees():
    smooth, jagged = in_blocks(head, 1), in_blocks(head, 8)
    dice = 2 * (smooth & jagged).sum() / (smooth.sum() + jagged.sum())
    assert dice > 0.98
    assert jaggedness(jagged) > 1.5


def test_the_border_of_the_picture_is_not_jagged():
    assert jaggedness(in_blocks(head, 1)[:, 200:]) < 0.05
    assert jaggedness(in_blocks(head, 8)[:, 200:]) == pytest.approx(jaggedness(in_blocks(head, 8)), rel=0.15)


@pytest.mark.parametrize("mask", [np.zeros((30, 30)), np.pad(np.ones((1, 1)), 9)])
def test_no_contour_no_number(mask):
    assert math.isnan(jaggedness(mask))
