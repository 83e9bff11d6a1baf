"""SegNeXt; `test_mscan` compares its encoder with one written out with the published names."""

import pytest
import torch
from model_tester import lively, picture

from famseg.errors import UserError
from famseg.models import SegNeXt


def test_the_head_takes_the_last_three_levels():
    model = lively(SegNeXt())
    maps = model.encoder(picture(1, 1, 64, 64))
    logits = model.head(maps[1:])
    for i in range(1, 4):
        assert not torch.equal(model.head([m + (j == i) for j, m in enumerate(maps)][1:]), logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1)}, r"model.depths=\[1, 1\] has 2 values, it takes 4"),
        ({"rank": 0}, "model.rank=0: give whole numbers, 1 or more"),
        ({"widths": (32, 64, 160, 0)}, r"model.widths=.* give whole numbers"),
        ({"drop_path": 1.5}, "model.drop_path=1.5: it is a rate"),
        ({"head_width": 48}, r"model.head_width=48 .*multiple of 32"),
        ({"kernels": "cuda"}, r"model.kernels='cuda' .* auto, torch, triton"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(UserError, match=message):
        SegNeXt(**options)


def test_frozen_logits():
    """Class by class, three pixels of a row, of weights from a formula; the code that gave them matched the published
    one on the same weights to 3e-8 in float64.
    """
    model = lively(SegNeXt().double())
    with torch.no_grad():
        logits = model(picture(1, 1, 70, 90).double())
    expected = torch.tensor([-0.30293, -0.22202, -0.21964, 0.17877, 0.08348, 0.0807, -0.72195, -0.61386, -0.61073])
    torch.testing.assert_close(logits[0, :, 40, 10::35].flatten(), expected.double(), rtol=1e-4, atol=1e-4)
