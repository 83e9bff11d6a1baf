from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from scipy.stats import kstest, kstwo

from famseg.data.augment.draw import Draw
from famseg.data.augment.ultrasound import degrade, speckle
from famseg.data.phantom import Phantom
from famseg.data.transforms import Augmentation
from famseg.errors import UserError

STRONG = Augmentation(geometric=1, photometric=1, ultrasound=1)


@pytest.fixture(scope="module")
def pair():
    sample = Phantom(3, (128, 192), difficulty="easy", planes={"both": 1.0})[1]
    return sample.image, sample.mask


def on_device(augment, image, mask, seeds):
    """The pairs of some seeds, as the device makes them, in whole grey levels."""
    images, masks = (torch.from_numpy(part).expand(len(seeds), -1, -1) for part in (image, mask))
    draws = torch.from_numpy(np.stack([augment.draw(seed) for seed in seeds]))
    grey, labels = augment.batch(images, masks, draws, 3)
    return grey[:, 0].numpy(), labels.numpy()


@pytest.mark.parametrize(
    ("augment", "mean", "most"),
    [
        (Augmentation(flip=1, geometric=0, photometric=0), 1e-3, 1e-2),
        (Augmentation(geometric=1, photometric=0), 0.3, 0.6),
        (Augmentation(geometric=0, photometric=1), 1.5, 4.0),
        (Augmentation(geometric=0, photometric=0, ultrasound=1), 0.3, 1.0),
        (STRONG, 1.8, 6.0),
    ],
)
def test_both_engines_make_the_same_picture_of_a_draw(pair, augment, mean, most):
    """`most`: of 99.9 % of the pixels; albumentations rounds to whole levels after each change, or cuts them off."""
    seeds = list(range(24))
    grey, labels = on_device(augment, *pair, seeds)
    for seed, image, label in zip(seeds, grey, labels, strict=True):
        expected, mask = augment(*pair, seed)
        error = np.abs(image - expected)
        assert error.mean() < mean
        assert np.quantile(error, 0.999) < most
        assert (label != mask).mean() < 2e-4


def test_a_sample_does_not_depend_on_its_batch(pair):
    together = on_device(STRONG, *pair, [3, 4, 5])
    alone = on_device(STRONG, *pair, [4])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one[1], other[0])


def test_labels_on_the_device_do_not_step(pair):
    shape = np.where(pair[1] == 2, 255, 0).astype(np.uint8)
    grey, labels = on_device(Augmentation(rotate=30, geometric=1, photometric=0), shape, pair[1], range(8))
    for image, label in zip(grey, labels, strict=True):
        assert ((image > 127.5) != (label == 2)).sum() <= 4  # by nearest neighbour: dozens


# The draws against albumentations' own ----------------------------------------------------------------------------

COUNT = 4000


def reference():
    """The pipeline as a user of albumentations writes it."""
    return A.Compose([
        A.HorizontalFlip(p=0.5),
        A.Affine(
            rotate=(-20, 20),
            scale=(0.8, 1.2),
            translate_percent=(-0.1, 0.1),
            keep_ratio=True,
            mask_interpolation=cv2.INTER_LINEAR,
            p=0.8,
        ),
        A.RandomGamma((70, 130), p=0.5),
        A.RandomBrightnessContrast(0.1, 0.2, p=0.5),
        A.MultiplicativeNoise((0.85, 1.15), elementwise=True, p=0.25),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1.0), p=0.25),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    """What albumentations draws: name -> values, of the samples to which it applies the change."""
    found = {name: [] for name in ("angle", "scale", "right", "down", "gamma", "contrast", "brightness", "blur")}
    _, affine, gamma, levels, _, blur = pipeline = reference()
    pipeline.set_random_seed(0)
    image = np.zeros((1000, 1000, 1), np.uint8)  # large, as it rounds shifts to pixels
    data, shape = {"image": image}, {"shape": image.shape}
    for _ in range(COUNT):
        matrix = affine.get_params_dependent_on_data(shape, data)["matrix"]
        found["angle"].append(np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0])))
        found["scale"].append(np.hypot(matrix[0, 0], matrix[0, 1]))
        middle = matrix @ [499.5, 499.5, 1] - 499.5
        found["right"].append(middle[0] / 1000)
        found["down"].append(middle[1] / 1000)
        found["gamma"].append(gamma.get_params_dependent_on_data(shape, data)["gamma"])
        level = levels.get_params_dependent_on_data(shape, data)
        found["contrast"].append(level["alpha"])
        found["brightness"].append(level["beta"] / 255)
        found["blur"].append(blur.py_random.uniform(*blur.sigma_limit))
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def ours():
    return Draw(*np.stack([Augmentation().draw(seed) for seed in range(COUNT)]).T)


@pytest.mark.parametrize(
    ("name", "field", "off"),
    [
        ("angle", "angle", 0),
        ("scale", "scale", 1),
        ("right", "shift_x", 0),
        ("down", "shift_y", 0),
        ("gamma", "gamma", 1),
        ("contrast", "contrast", 1),
        ("brightness", "brightness", 0),
        ("blur", "blur", 0),
    ],
)
def test_strengths_are_drawn_as_albumentations_draws_them(theirs, ours, name, field, off):
    values = getattr(ours, field)
    applied = values[values != off]
    assert kstest(applied, theirs[name]).pvalue > 1e-3
    shifted = theirs[name] + 0.3 * theirs[name].std()
    assert kstest(applied, shifted).pvalue < 1e-3  # the test would notice


def test_changes_happen_as_often_as_they_should(ours):
    often = {
        "flip": (ours.flip == 1, 0.5),
        "affine": (ours.angle != 0, 0.8),
        "gamma": (ours.gamma != 1, 0.5),
        "levels": (ours.contrast != 1, 0.5),
        "speckle": (ours.speckle != 0, 0.25),
        "blur": (ours.blur != 0, 0.25),
    }
    for name, (happened, probability) in often.items():
        assert happened.mean() == pytest.approx(probability, abs=0.03), name
    together = np.corrcoef([happened for happened, _ in often.values()])
    assert np.abs(together - np.eye(len(often))).max() < 0.06  # independent of one another


def test_pictures_are_distributed_as_those_of_the_plain_pipeline():
    """Mean, contrast, area and place of the label over many augmented pairs, both engines against the reference."""
    sample = Phantom(1, (48, 64), difficulty="easy", planes={"head": 1.0})[0]
    pipeline, count = reference(), 400
    pipeline.set_random_seed(1)
    maps = (sample.mask[..., None] == np.arange(3)).astype(np.float32)

    def numbers(image, mask):
        y, x = np.nonzero(mask == 2)
        return float(image.mean()), float(image.std()), float(len(x)), x.mean(), y.mean()

    plain = []
    for _ in range(count):
        out = pipeline(image=sample.image[..., None], mask=maps)
        plain.append(numbers(out["image"], out["mask"].argmax(-1)))
    augment = Augmentation()
    loader = [numbers(*augment(sample.image, sample.mask, seed)) for seed in range(count)]
    device = [numbers(*both) for both in zip(*on_device(augment, sample.image, sample.mask, range(count)), strict=True)]
    for column in range(5):
        for made in (loader, device):
            assert kstest(np.array(made)[:, column], np.array(plain)[:, column]).pvalue > 1e-3
    assert kstwo.ppf(0.999, count // 2) < 0.15  # distributions 0.15 apart would be told from each other


def test_one_strength_does_not_move_the_other_draws():
    base, other = (Draw(*replace(STRONG, gamma=gamma, shadow=5.0).draw(11)) for gamma in (30, 60))
    assert other.gamma - 1 == pytest.approx(2 * (base.gamma - 1), rel=1e-5)
    assert base._replace(gamma=0) == other._replace(gamma=0)


def test_a_draw_without_changes_is_the_default():
    off = Draw(*Augmentation(flip=0, geometric=0, photometric=0).draw(5).tolist())
    inert = {"shadow_at", "shadow_width", "shadow_from", "sector_at", "speckle_seed"}  # strengths of 0 beside them
    assert {name: value for name, value in off._asdict().items() if name not in inert} == {
        name: value for name, value in Draw()._asdict().items() if name not in inert
    }


def test_unknown_engines_are_named():
    with pytest.raises(UserError, match=r"data\.augment\.engine=cpu: give auto"):
        Augmentation(engine="cpu")


# What a scanner does ----------------------------------------------------------------------------------------------


def scanned(image, **values):
    draw = Draw.batch(torch.tensor([Draw(**values)], dtype=torch.float32))
    return degrade(image[None, None], draw)[0, 0]


@pytest.fixture
def grey():
    return torch.full((100, 150), 120.0)


def test_attenuation_takes_grey_levels_in_proportion_to_depth(grey):
    lost = 120 - scanned(grey, attenuation=6.0)
    depth = (torch.arange(100) + 0.5) / 100
    torch.testing.assert_close(lost, (6 * 255 / 60 * depth)[:, None].expand(100, 150), atol=1e-3, rtol=0)


def test_gain_is_a_line_between_its_knobs(grey):
    gained = scanned(grey, gain_1=4.0) - 120
    assert gained[25].mean() == pytest.approx(4 * 255 / 60, abs=0.5)
    assert gained[12].mean() == pytest.approx(2 * 255 / 60, abs=0.5)
    assert gained[50:].abs().max() < 0.5
    assert gained.std(dim=1).max() < 1e-4  # the same across


def test_black_stays_black_and_white_is_the_end(grey):
    assert scanned(torch.zeros(100, 150), gain_2=6.0).max() == 0
    assert scanned(torch.full((100, 150), 250.0), gain_2=6.0).max() == 255


def test_a_shadow_lies_behind_its_reflector_along_the_beam(grey):
    lost = 120 - scanned(grey, shadow=20.0, shadow_at=0.4, shadow_width=0.08, shadow_from=0.4)
    assert lost[:30].max() < 1
    columns = [row.argmax().item() for row in lost[50:]]
    assert columns == sorted(columns)  # beams part from each other with depth
    assert columns[-1] > columns[0] > 75
    assert lost[60].max() == pytest.approx(20 * 255 / 60, rel=0.02)
    assert lost[:, :60].max() < 1


def test_a_sector_leaves_what_is_inside_and_nothing_outside(grey):
    cut = scanned(grey, sector=0.3)
    assert cut[:, 75].tolist()[:98] == [120] * 98
    assert cut[50, [0, 149]].tolist() == [0, 0]
    assert (cut > 0)[20].sum() < (cut > 0)[80].sum()  # it opens with depth
    assert (cut > 0)[99].sum() < (cut > 0)[90].sum()  # its end is round
    torch.testing.assert_close(cut, cut.flip(1))  # it points down


def test_speckle_is_uniform_and_differs_between_pixels_and_samples():
    seeds = torch.tensor([5.0, 6.0, 2.0**24 - 1])
    draw = Draw.batch(torch.tensor([Draw(speckle=1.0, speckle_seed=s) for s in seeds.tolist()]))
    noise = (speckle(torch.ones(3, 1, 128, 192), draw) - 1).flatten(1).numpy()
    for row in noise:
        assert kstest(row, "uniform", (-1, 2)).pvalue > 1e-3
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 0.03
        assert abs(np.corrcoef(row[192:], row[:-192])[0, 1]) < 0.03
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.03
