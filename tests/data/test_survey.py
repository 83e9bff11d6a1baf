import cv2
import numpy as np
import pytest

from famseg.data.phantom import Phantom
from famseg.data.survey import NEAR, copies, fingerprint, survey


@pytest.fixture(scope="module")
def images():
    source = Phantom(16, (256, 384), seed=5)
    return [source[index].image for index in range(16)]


def altered(image):
    """Shrunk, cropped, brightened and compressed."""
    small = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)[1:-2, 2:-1]
    bright = np.clip(small.astype(float) * 1.15 + 5, 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", bright, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)


def distances(one, other):
    return [(fingerprint(a) != fingerprint(b)).sum() for a, b in zip(one, other, strict=True)]


def test_altered_copies_are_near_and_other_images_are_not(images):
    assert max(distances(images, map(altered, images))) <= NEAR
    assert min(distances(images[:-2:2], images[2::2])) > NEAR  # every second: two images show one subject


def test_survey_measures_what_is_there(toy):
    seen = survey(toy(3))
    assert [image.name for image in seen] == ["000.png", "001.png", "002.png"]
    assert (seen[1].group, seen[1].shape, seen[1].spacing) == ("g0", (41, 60), 0.5)
    assert seen[0].areas == {"FB": 20 * 30}
    assert seen[0].extents == {"FB": 30.0}
    assert seen[0].mean == pytest.approx(127.5, abs=5)


def test_equal_images_are_found_first(toy):
    source = toy(6)
    pictures = {index: source[index % 3] for index in range(6)}
    source.__class__ = type("Twice", (toy,), {"__getitem__": lambda self, index: pictures[index]})
    found = copies(survey(source))
    assert [(pair.first, pair.second, pair.bits) for pair in found] == [(0, 3, -1), (1, 4, -1), (2, 5, -1)]
    assert copies([]) == []
