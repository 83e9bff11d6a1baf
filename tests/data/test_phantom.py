"""The phantom as a source: what is drawn, labelled and refused."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from famseg.biometry import ellipse_from_mask
from famseg.data.phantom import Phantom, datamodule
from famseg.errors import UserError

FEMUR, HEAD = 1, 2


@pytest.fixture(scope="module")
def samples():
    source = Phantom(24, (160, 200), seed=3)
    return [source[index] for index in range(len(source))]


def only(plane, n=12, size=(160, 200), **options):
    source = Phantom(n, size, planes={plane: 1.0}, **options)
    return [source[index] for index in range(n)]


def test_same_bytes_in_any_order_and_thread(samples):
    source = Phantom(24, (160, 200), seed=3)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(source.__getitem__, reversed(range(24))))[::-1]
    for first, second in zip(samples, again, strict=True):
        assert first.image.tobytes() == second.image.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()
        assert (first.spacing, first.truth) == (second.spacing, second.truth)


def test_a_sample_does_not_depend_on_how_many_there_are(samples):
    assert np.array_equal(Phantom(8, (160, 200), seed=3)[7].image, samples[7].image)


def test_every_image_is_another_and_every_seed_too(samples):
    assert len({sample.image.tobytes() for sample in samples}) == 24
    assert not np.array_equal(Phantom(1, (160, 200), seed=4)[0].image, samples[0].image)


def test_names_groups_and_classes_match_the_samples(samples):
    source = Phantom(24, (160, 200), seed=3)
    assert source.classes == {"BG": 0, "FL": 1, "FB": 2}
    assert [s.name for s in samples] == list(source.names)
    assert [s.group for s in samples] == list(source.groups)
    assert len(set(source.names)) == 24
    assert list(source.problems()) == []


def test_a_subject_keeps_its_anatomy():
    source = Phantom(12, (64, 64), images_per_subject=3, planes={"both": 1.0})
    truths = {}
    for index in range(12):
        truths.setdefault(source.groups[index], []).append(source[index].truth)
    assert [len(group) for group in truths.values()] == [3, 3, 3, 3]
    assert all(truth == group[0] for group in truths.values() for truth in group)
    assert len({group[0]["hc_mm"] for group in truths.values()}) == 4


def test_even_small_sets_show_every_plane(samples):
    shown = [frozenset(np.unique(sample.mask).tolist()) for sample in samples[:10]]
    assert set(shown) == {frozenset({0, FEMUR}), frozenset({0, HEAD}), frozenset({0, FEMUR, HEAD})}
    for sample in samples:
        assert (HEAD in sample.mask) == ("hc_mm" in sample.truth)
        assert (FEMUR in sample.mask) == ("fl_mm" in sample.truth)


def test_shares_of_planes_hold():
    source = Phantom(400, planes={"head": 3, "none": 1})
    planes = [source.scene(index)[1].head is not None for index in range(400)]
    assert sum(planes) == pytest.approx(300, abs=3)
    assert source.classes == {"BG": 0, "FB": 2}


def test_empty_views_have_neither_label_nor_truth():
    for sample in only("none", n=3):
        assert not sample.mask.any()
        assert sample.truth == {}


def test_head_mask_measures_the_true_millimetres():
    for sample in only("head"):
        ellipse = ellipse_from_mask(sample.mask == HEAD)
        assert ellipse.perimeter() * sample.spacing == pytest.approx(sample.truth["hc_mm"], rel=0.004)
        assert 2 * ellipse.a * sample.spacing == pytest.approx(sample.truth["ofd_mm"], abs=sample.spacing)
        assert 2 * ellipse.b * sample.spacing == pytest.approx(sample.truth["bpd_mm"], abs=sample.spacing)
        area = np.pi / 4 * sample.truth["ofd_mm"] * sample.truth["bpd_mm"] / sample.spacing**2
        assert (sample.mask == HEAD).sum() == pytest.approx(area, rel=0.01)


def test_femur_mask_extends_over_the_true_length():
    for sample in only("femur"):
        (_, (width, height), _) = cv2.minAreaRect(np.argwhere(sample.mask == FEMUR).astype(np.float32))
        extent = max(width, height) + 1  # from pixel centres to pixel edges
        assert extent == pytest.approx(sample.truth["fl_mm"] / sample.spacing, abs=1.5)


def test_easy_femurs_are_four_pixels_wide_at_the_quickstart_size():
    for sample in only("femur", n=20, size=(128, 128), difficulty="easy"):
        distance = cv2.distanceTransform((sample.mask == FEMUR).astype(np.uint8), cv2.DIST_L2, 5)
        assert 2 * distance.max() >= 4
        assert (sample.mask == FEMUR).sum() >= 3.5 * sample.truth["fl_mm"] / sample.spacing


def test_sizes_are_those_of_life():
    heads, femurs = only("head", n=40, size=(64, 64)), only("femur", n=40, size=(64, 64))
    assert all(80 < sample.truth["hc_mm"] < 360 for sample in heads)
    assert all(8 < sample.truth["fl_mm"] < 80 for sample in femurs)
    assert all(0.05 * 800 / 64 < sample.spacing < 0.45 * 800 / 64 for sample in heads)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (270, 101)])
@pytest.mark.parametrize("difficulty", ["easy", "normal", "hard"])
def test_any_size_works(size, difficulty):
    source = Phantom(4, size, difficulty=difficulty)
    for index in range(4):
        sample = source[index]
        assert sample.image.shape == sample.mask.shape == size
        assert sample.image.dtype == sample.mask.dtype == np.uint8
        assert sample.mask.any()


def test_grey_values_use_the_range_and_do_not_saturate(samples):
    images = np.stack([sample.image for sample in samples])
    assert (images == 255).mean() < 0.02
    assert np.percentile(images, 99.5) > 150
    assert 0.05 < (images == 0).mean() < 0.6  # the sector leaves corners black
    assert 15 < np.median(images[images > 0]) < 70


def contrast(label, samples):
    """How far labelled bone stands out: mean grey level over the rest of the image, in its standard deviations."""
    z = [(s.image[s.mask == label].mean() - s.image[s.mask == 0].mean()) / s.image[s.mask == 0].std() for s in samples]
    return np.mean(z)


def test_difficulties_are_ordered():
    easy, normal, hard = (
        contrast(FEMUR, only("femur", 20, (96, 96), difficulty=level)) for level in ("easy", "normal", "hard")
    )
    assert easy > normal + 0.1
    assert normal > hard + 0.1


def test_screens_never_hide_a_label():
    for sample in only("head", n=30, size=(64, 96), difficulty="normal"):
        inner = cv2.erode((sample.mask == HEAD).astype(np.uint8), np.ones((9, 9))) > 0
        blocks = cv2.erode((sample.image == 0).astype(np.uint8), np.ones((5, 5))) > 0
        assert not (inner & blocks).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n=0"),
        ({"n": "many"}, "n='many'"),
        ({"seed": -1}, "seed=-1"),
        ({"size": (31, 64)}, "32 or more"),
        ({"size": (64,)}, "height, width"),
        ({"size": 64}, "height, width"),
        ({"difficulty": "harder"}, "easy, normal, hard"),
        ({"images_per_subject": 0}, "images_per_subject=0"),
        ({"planes": {"feet": 1}}, "head, femur, both, none"),
        ({"planes": {"head": 0}}, "above zero"),
        ({"planes": {"head": -1, "femur": 2}}, "above zero"),
    ],
)
def test_bad_options_name_the_key_and_the_mend(options, words):
    with pytest.raises(UserError, match=words):
        Phantom(**{"n": 4, **options})


def test_an_index_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        Phantom(4)[4]


def test_datamodule_draws_at_the_size_of_the_network():
    data = datamodule(n=20, size=(64, 48), batch_size=2, difficulty="easy")
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 1, 64, 48)
    assert datamodule(n=20, size=(64, 48), image_size=(80, 80)).source[0].image.shape == (80, 80)
