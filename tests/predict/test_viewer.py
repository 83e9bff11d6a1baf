import math
import re

import numpy as np
import pytest

from famseg.errors import UserError
from famseg.inference import Segmentation
from famseg.prediction.findings import examine
from famseg.prediction.viewer import Viewer, report

CLASSES = {"BG": 0, "FL": 1, "FB": 2}


@pytest.fixture
def viewer(predictor):
    return Viewer([predictor])


def test_an_image_gives_a_picture_and_a_report(viewer, write_image, picture, head):
    result, text = viewer.measure(str(write_image("a.png", picture)), "0.25", "20+3")
    assert result.shape[1] == 960
    (hc,) = re.findall(r"\| HC \| ([\d.]+) \|", text)
    assert float(hc) == pytest.approx(head.perimeter() * 0.25, rel=0.01)
    for words in ("Gestational age", "Hadlock 1984, HC+FL: **", "Confidence", "femur **", "Quality"):
        assert words in text


def test_without_spacing_there_are_no_millimetres_and_that_is_said(viewer, write_image, picture):
    _, text = viewer.measure(str(write_image("a.png", picture)), "", " ")
    assert "| HC | - | - |" in text
    assert "pixel size unknown" in text


@pytest.mark.parametrize(
    ("name", "spacing", "weeks", "words"),
    [
        ("bad.png", "0,2", "", r"^bad\.png: is no readable image"),
        ("good.png", "0", "", "mm per pixel: pixel size '0' is no positive number"),
        ("good.png", "spacing.csv", "", "no positive number"),
        ("good.png", "12", "", "mm per pixel: pixel size '12' is outside the 0.02 to 2 mm"),
        ("good.png", "0,2", "soon", "age 'soon'"),
        (None, "0,2", "", "Choose an image"),
    ],
)
def test_mistakes_are_said_without_folders_of_this_computer(viewer, write_image, picture, name, spacing, weeks, words):
    write_image("good.png", picture).with_name("bad.png").write_text("no image")
    path = name and str(write_image("good.png", picture).with_name(name))
    with pytest.raises(UserError, match=words) as raised:
        viewer.measure(path, spacing, weeks)
    assert "/" not in str(raised.value).replace("PNG/", "")


def test_a_report_cannot_carry_markup():
    mask = np.ones((40, 40), np.uint8)
    findings = examine(Segmentation(mask, np.ones(mask.shape, np.float32)), {"BG": 0, "<b>": 1}, math.nan)
    text = report(findings, ["<script>"])
    assert "<b>" not in text
    assert "<script>" not in text
