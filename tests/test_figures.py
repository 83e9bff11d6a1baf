"""The drawing of the network is the one that its code draws now, and it draws what the network is."""

import functools
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from famseg.models import SIZES, FAMSeg

small = functools.partial(FAMSeg, **SIZES["N"])


@pytest.fixture(scope="module")
def figures():
    return Path(__file__).parents[1] / "docs" / "figures"


@pytest.fixture(scope="module")
def draw(figures):
    return runpy.run_path(str(figures / "network.py"))["draw"]


def words(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_the_committed_drawing_is_current(figures, draw):
    committed = (figures / "network.svg").read_text(encoding="utf-8")
    assert draw(FAMSeg(), "T") == committed, "run python docs/figures/network.py"


def test_numbers_are_those_of_the_module(draw):
    model = small(num_classes=5, directions=2, depths=(1, 2, 3, 4), fam_kernels=(3, 3, 5, 5, 7), rank=9)
    text = "\n".join(words(draw(model, "N")))
    assert re.findall(r"(\d) × StripBlock", text) == ["1", "2", "3", "4"]
    assert text.count("Mamba2D, 2 directions") == 4
    assert re.findall(r"K = (\d)", text) == ["3", "3", "5", "5", "7"]
    assert "NMF of rank 9," in text
    assert [int(n) for n in re.findall(r"^(\d+) channels$", text, re.M)] == [
        16, 16, 32, 80, 128, 128, 64, 32, 16, 16, 16, 5,
    ]  # fmt: skip


def test_what_is_switched_off_is_not_drawn(draw):
    text = "\n".join(words(draw(small(mamba=False, fusion="none", upsample="bilinear", refine=False), "N")))
    assert text.count("BottleBlock (identity)") == 4
    assert not re.search("Mamba2D|Hamburger|stacked|FAM ", text)
    assert text.count("bilinear ×2") == 5
    assert "the last upsampling carries them" in text
