import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from famseg.biometry import Ellipse
from famseg.metrics.surface import surface_distances


def disc(radius, cx=60.3, cy=50.2, shape=(100, 140)):
    return Ellipse(cx, cy, radius, radius, 0).mask(*shape)


def random_blobs(seed, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    coarse = rng.random((shape[0] // 3 + 1, shape[1] // 3 + 1)) > 0.6
    return np.kron(coarse, np.ones((3, 3), bool))[: shape[0], : shape[1]]


def slow_outline(mask):
    """Marching squares cell by cell: {point: [length, within the picture]}."""
    m = np.pad(mask, 1)
    points = {}
    for y in range(m.shape[0] - 1):
        for x in range(m.shape[1] - 1):
            a, b, c, d = m[y, x], m[y, x + 1], m[y + 1, x + 1], m[y + 1, x]
            edges = [
                p
                for p, cut in zip(
                    [(x + 0.5, y), (x + 1, y + 0.5), (x + 0.5, y + 1), (x, y + 0.5)],
                    [a != b, b != c, c != d, d != a],
                    strict=True,
                )
                if cut
            ]
            piece = math.dist(*edges) if len(edges) == 2 else math.sqrt(0.5)
            for px, py in edges:
                points[(px - 1, py - 1)] = points.get((px - 1, py - 1), 0) + piece / 2
    return np.array(list(points)), np.array(list(points.values()))


@pytest.mark.parametrize("seed", range(4))
def test_against_marching_squares_cell_by_cell(seed):
    a, b = random_blobs(seed), random_blobs(seed + 100)
    (points_a, length_a), (points_b, length_b) = slow_outline(a), slow_outline(b)
    distance = cdist(points_a, points_b)
    within_a, within_b = (
        (p > -0.4).all(axis=1) & (p[:, 0] < a.shape[1] - 0.6) & (p[:, 1] < a.shape[0] - 0.6)
        for p in (points_a, points_b)
    )
    to_b, to_a = distance.min(axis=1)[within_a], distance.min(axis=0)[within_b]
    length_a, length_b = length_a[within_a], length_b[within_b]
    found = surface_distances(a, b)
    total = length_a.sum() + length_b.sum()
    assert found.hausdorff(100) == pytest.approx(max(to_b.max(), to_a.max()))
    assert found.assd() == pytest.approx((to_b @ length_a + to_a @ length_b) / total)
    assert found.nsd(1.5) == pytest.approx((length_a[to_b <= 1.5].sum() + length_b[to_a <= 1.5].sum()) / total)


def test_the_same_mask_is_at_no_distance():
    same = surface_distances(disc(30), disc(30))
    assert (same.hausdorff(), same.assd(), same.nsd(0)) == (0, 0, 1)


@pytest.mark.parametrize("gap", [2, 5, 9])
def test_concentric_circles(gap):
    distances = surface_distances(disc(30), disc(30 + gap), spacing=0.5)
    assert distances.hausdorff() == pytest.approx(gap / 2, abs=0.15)
    assert distances.assd() == pytest.approx(gap / 2, abs=0.1)
    assert distances.nsd(gap / 2 - 0.5) == 0
    assert distances.nsd(gap / 2 + 0.5) == 1


def test_both_directions_count():
    speck = disc(30) | disc(1, cx=120)
    there, back = surface_distances(disc(30), speck), surface_distances(speck, disc(30))
    assert there.hausdorff(100) == back.hausdorff(100) == pytest.approx(31, abs=1)
    assert there.assd() == pytest.approx(back.assd())
    assert there.hausdorff() < 1 < there.hausdorff(99.9)  # the speck has 3 % of the length


def test_boundary_length_of_a_rectangle():
    box = np.zeros((30, 40), bool)
    box[5:15, 10:30] = True
    distances = surface_distances(box, box, spacing=2.0)
    assert distances.first_length.sum() == pytest.approx(2 * (2 * (10 + 20) - 4 + 4 * math.sqrt(0.5)))


def test_the_border_of_the_picture_is_not_scored():
    band = np.zeros((50, 60), bool)
    band[:, :20] = True
    shifted = np.roll(band, 3, axis=1) | band
    distances = surface_distances(band, shifted)
    assert (distances.hausdorff(), len(distances.first)) == (3, 50)
    assert distances.assd() == pytest.approx(3, abs=0.1)  # with the borders scored: below 2


def test_a_mask_that_stops_short_of_the_border_is_near_one_that_does_not():
    cut, short = disc(30, cx=20), disc(30, cx=20)
    short[:, :2] = False
    assert surface_distances(cut, short).hausdorff(100) == pytest.approx(2, abs=0.5)


def test_masks_that_fill_the_picture():
    full = np.ones((20, 30))
    assert surface_distances(full, full).nsd(0) == 1
    assert 0 < surface_distances(full, disc(5, 10, 10, (20, 30))).hausdorff() < 36


def test_half_a_boundary_far_away():
    a, b = np.zeros((2, 40, 400), bool)
    a[10:30, 10:210] = b[10:30, 10:210] = True
    b[10:30, 210:390] = True
    assert surface_distances(a, b).hausdorff(40) < 1 < surface_distances(a, b).hausdorff(60)


@pytest.mark.parametrize("pair", [(np.zeros((9, 9)), np.ones((9, 9))), (np.ones((9, 9)), np.ones((9, 8)))])
def test_empty_masks_and_other_sizes_are_refused(pair):
    with pytest.raises(ValueError, match="mask"):
        surface_distances(*pair)
