import subprocess
import sys

import numpy as np
import pytest
import torch

from famseg.biometry import Ellipse
from famseg.data.transforms import Augmentation, Letterbox

ELLIPSE = Ellipse(300, 220, 210, 150, 0.4)


@pytest.mark.parametrize("original", [(540, 800), (400, 300), (100, 700), (64, 96), (33, 47)])
def test_letterbox_keeps_proportions_and_fills_one_side(original):
    rows, columns = Letterbox((256, 384)).area(original)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert height == 256 or width == 384
    assert height / width == pytest.approx(original[0] / original[1], rel=0.02)
    assert 0 <= rows.start <= rows.stop <= 256
    assert 0 <= columns.start <= columns.stop <= 384


def test_padding_is_zero_and_the_image_is_not():
    box = Letterbox((64, 64))
    image = box.apply(np.full((40, 80), 200, np.uint8))
    rows, columns = box.area((40, 80))
    assert (image[rows, columns] == 200).all()
    assert image.sum() == 200 * 64 * 32


def test_same_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    box = Letterbox((64, 96))
    np.testing.assert_array_equal(box.apply(image), image)
    np.testing.assert_array_equal(box.apply_mask(image % 3), image % 3)


@pytest.mark.parametrize("original", [(540, 800), (801, 333), (45, 61)])
def test_restore_inverts_the_geometry(original):
    """A ramp comes back as the same ramp, but for the border where interpolation has no neighbour."""
    box = Letterbox((256, 384))
    y, x = np.mgrid[: original[0], : original[1]]
    ramp = (255 * (x / original[1] + y / original[0]) / 2).astype(np.uint8)
    back = box.restore(torch.from_numpy(box.apply(ramp))[None, None].float(), original)[0, 0].numpy()
    assert back.shape == original
    assert np.abs(back - ramp)[8:-8, 8:-8].max() < 2.5


def test_labels_follow_the_area_of_a_class_at_the_small_size():
    small = Letterbox((256, 384)).apply_mask(ELLIPSE.mask(512, 768).astype(np.uint8) * 2)
    half = Ellipse(149.75, 109.75, 105, 75, 0.4).mask(256, 384)  # pixel centres at whole numbers
    assert np.unique(small).tolist() == [0, 2]
    assert ((small == 2) != half).mean() < 2e-3


def test_labels_survive_the_way_there_and_back():
    mask = ELLIPSE.mask(540, 800)
    box = Letterbox((256, 384))
    small = torch.from_numpy(box.apply_mask(mask.astype(np.uint8)))
    logits = torch.stack([(small == 0), (small == 1)]).float()[None] * 8 - 4
    back = box.restore(logits, (540, 800)).argmax(1)[0].numpy()
    dice = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    assert dice > 0.997


@pytest.fixture(scope="module")
def pair():
    image = np.random.default_rng(0).integers(0, 200, (128, 192), dtype=np.uint8)
    return image, Ellipse(96, 64, 50, 35, 0.3).mask(128, 192).astype(np.uint8) * 2


def test_augmentation_follows_from_its_seed_alone(pair):
    augment = Augmentation()
    first = augment(*pair, seed=7)
    augment(*pair, seed=8)
    for one, again, fresh in zip(first, augment(*pair, seed=7), Augmentation()(*pair, seed=7), strict=True):
        np.testing.assert_array_equal(one, again)
        np.testing.assert_array_equal(one, fresh)


def test_seeds_differ(pair):
    augment = Augmentation()
    images = {augment(*pair, seed=seed)[0].tobytes() for seed in range(20)}
    assert len(images) > 15


def test_transforms_do_not_share_their_draws(pair):
    """With one probability for all, each alone must turn up without the others."""
    only = Augmentation(flip=0.5, rotate=0, scale=0, shift=0, geometric=0, gamma=0, brightness=0.3, photometric=0.5)
    dark_of = {}
    for seed in range(60):
        image, mask = only(*pair, seed=seed)
        flipped = not np.array_equal(mask, pair[1])
        dark_of.setdefault(flipped, []).append(image.mean() < pair[0].mean() - 5)
    assert all(0.05 < np.mean(dark) < 0.6 for dark in dark_of.values())
    assert len(dark_of) == 2


def test_everything_off_changes_nothing(pair):
    image, mask = Augmentation(flip=0, geometric=0, photometric=0)(*pair, seed=0)
    np.testing.assert_array_equal(image, pair[0])
    np.testing.assert_array_equal(mask, pair[1])


def test_image_and_mask_move_together(pair):
    augment = Augmentation(flip=1, rotate=30, scale=0.2, shift=0.1, geometric=1, photometric=0)
    shape = np.where(pair[1] == 2, 255, 0).astype(np.uint8)
    for seed in range(5):
        image, mask = augment(shape, pair[1], seed=seed)
        assert ((image > 127) != (mask == 2)).sum() <= 2  # a mask moved by nearest neighbour differs in 15 px and more


def test_proportions_are_kept(pair):
    """A circle stays a circle, however large it becomes."""
    circle = Ellipse(96, 64, 40, 40, 0).mask(128, 192).astype(np.uint8)
    augment = Augmentation(rotate=30, scale=0.3, shift=0, geometric=1, photometric=0)
    areas = []
    for seed in range(8):
        y, x = np.nonzero(augment(pair[0], circle, seed=seed)[1])
        assert np.ptp(x) == pytest.approx(np.ptp(y), abs=2)
        areas.append(len(x))
    assert max(areas) > 1.3 * min(areas)


def test_photometric_changes_leave_the_mask(pair):
    image, mask = Augmentation(flip=0, geometric=0, photometric=1)(*pair, seed=3)
    np.testing.assert_array_equal(mask, pair[1])
    assert not np.array_equal(image, pair[0])
    assert image.dtype == np.uint8


def test_only_augmenting_imports_albumentations():
    code = "import sys, famseg.data.transforms; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
