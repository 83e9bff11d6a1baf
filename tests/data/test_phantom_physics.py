"""The phantom's image formation against textbook statistics, and its geometry against formulas."""

import numpy as np
import pytest

from famseg.data.phantom.geometry import Femur, Head, Pose
from famseg.data.phantom.scan import Grid, Pulse, Sector
from famseg.data.phantom.speckle import compress, echoes

SECTOR = Sector(apex_x=60, apex_z=-50, probe=50, near=50, far=170, half_angle=0.6)
PULSE = Pulse(axial=0.4, lateral=1.0, focus=60, reach=50)


@pytest.fixture(scope="module")
def grid():
    return Grid(SECTOR, PULSE, spacing=0.25)


@pytest.fixture(scope="module")
def uniform(grid):
    """Echo of a homogeneous medium of amplitude 0.1."""
    scatter, mirror = np.full(grid.shape, 0.1, np.float32), np.zeros(grid.shape, np.float32)
    (echo,) = echoes(grid, scatter, mirror, 1, np.random.default_rng(0))
    return echo


def correlation_length(rows):
    """Lag in samples at which the autocorrelation along the last axis falls below exp(-1/2)."""
    lags = range(1, 40)
    power = np.mean(np.abs(rows) ** 2)
    falls = [np.abs(np.mean(rows[:, lag:] * rows[:, :-lag].conj())) / power < np.exp(-0.5) for lag in lags]
    return lags[falls.index(True)]


def test_speckle_is_fully_developed(uniform):
    envelope = np.abs(uniform)
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, rel=0.03)  # Rayleigh: sqrt(pi / (4 - pi))
    assert np.mean(envelope**4) / np.mean(envelope**2) ** 2 == pytest.approx(2, rel=0.06)
    assert abs(np.mean(uniform)) < 0.05 * envelope.mean()


def test_speckle_has_the_strength_of_the_medium_at_every_depth(uniform):
    bands = np.array_split(np.abs(uniform) ** 2, 4)
    assert [np.sqrt(band.mean()) for band in bands] == pytest.approx([0.1] * 4, rel=0.08)


def test_grains_are_wider_than_high_and_widest_far_from_the_focus(grid, uniform):
    rows = {depth: int((depth + SECTOR.probe - SECTOR.near) / grid.step) for depth in (60, 110)}
    width = {
        depth: correlation_length(uniform[row - 30 : row + 9]) * grid.turn * (depth + SECTOR.probe)
        for depth, row in rows.items()
    }
    height = correlation_length(uniform.T) * grid.step
    assert width[60] > 1.5 * height
    assert width[110] > 1.2 * width[60]


def test_smooth_reflectors_keep_their_strength(grid):
    mirror = np.full(grid.shape, 0.5, np.float32)
    (echo,) = echoes(grid, np.zeros(grid.shape, np.float32), mirror, 1, np.random.default_rng(0))
    assert np.abs(echo) == pytest.approx(mirror, rel=1e-3)


def test_log_compression_maps_the_dynamic_range():
    grey = compress(np.array([1.0, 10**-1.5, 1e-3, 0.0], np.float32), dynamic_range=60, gamma=1.0)
    assert grey == pytest.approx([255, 127.5, 0, 0], abs=0.01)


def test_scan_conversion_keeps_places_and_blackens_the_outside(grid):
    picture = grid.to_picture(grid.z.astype(np.float32), 400, 480)
    assert picture[200, 240] == pytest.approx(200 * grid.spacing, abs=0.02)
    assert picture[100, 300] == pytest.approx(100 * grid.spacing, abs=0.02)
    assert picture[5, 5] == 0


def test_windows_hold_everything_within_reach(grid):
    for x, z, reach in [(60, 50, 10), (20, 80, 30), (90, 5, 20)]:
        near = np.hypot(grid.x - x, grid.z - z) <= reach
        window = np.zeros_like(near)
        window[grid.around(x, z, reach)] = True
        assert near.any()
        assert not (near & ~window).any()


def test_head_has_the_asked_for_circumference():
    truth = Head.from_circumference(250.0, 0.8, Pose(0, 0, 0)).truth()
    assert truth["hc_mm"] == pytest.approx(250)
    assert truth["bpd_mm"] / truth["ofd_mm"] == pytest.approx(0.8)


def test_femur_tips_lie_its_length_apart():
    femur = Femur(length=60, thickness=6, bow=2.0, pose=Pose(40, 20, 0.4))
    mask = femur.mask(800, 1600, spacing=0.05)
    y, x = np.nonzero(mask)
    along = (x * np.cos(0.4) + y * np.sin(0.4)) * 0.05
    assert along.max() - along.min() == pytest.approx(60, abs=0.1)
    assert femur.distance(np.array([0.0]), np.array([2.0])) == pytest.approx(-3)


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
def test_extents_enclose_the_masks(angle):
    for item, slack in ((Head(50, 40, Pose(50, 50, angle)), 0.11), (Femur(60, 5, -2, Pose(50, 50, angle)), 5)):
        z, x = np.nonzero(item.mask(1000, 1000, 0.1))
        for extent, half in zip(item.extent(), (x, z), strict=True):
            assert extent - slack <= np.abs(half * 0.1 - 50).max() <= extent + 0.01
