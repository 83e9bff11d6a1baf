from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from famseg.errors import UserError
from famseg.inference import Predictor, segment, select_device


class Lopsided(nn.Module):
    """Sees its object on the left half of the input only: what it is shown mirrored, it finds mirrored."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        left = torch.linspace(1, -1, image.shape[-1]).expand(len(image), 1, *image.shape[-2:])
        return torch.cat([-self.weight * left, self.weight * left], dim=1)


def test_mask_has_the_size_and_the_ids_of_the_image(predictor, picture):
    (result,) = segment([predictor], [picture])
    assert result.mask.shape == picture.shape
    assert set(np.unique(result.mask)) == {0, 1, 2}
    head = result.mask == 2
    assert (head != (picture == 255)).sum() < 0.02 * head.sum()


def test_a_batch_of_sizes_gives_what_each_image_gives(predictor, picture):
    images = [picture, picture[:150], np.ascontiguousarray(picture.T)]
    together = list(segment([predictor], images))
    for image, result in zip(images, together, strict=True):
        alone = next(segment([predictor], [image]))
        np.testing.assert_array_equal(result.mask, alone.mask)
        np.testing.assert_allclose(result.probability, alone.probability, atol=1e-6)


def test_logits_are_enlarged_not_labels(predictor):
    """A slope's border lands between the network's pixels, where enlarged labels would step by four."""
    predictor = replace(predictor, size=(64, 96))
    image = np.tile(np.linspace(0, 255, 384), (256, 1)) + np.linspace(0, 40, 256)[:, None]
    (result,) = segment([predictor], [np.clip(image, 0, 255).astype(np.uint8)])
    borders = (result.mask == 2).argmax(axis=1)
    assert len(np.unique(borders)) > 40


def test_flip_is_symmetric_where_the_network_is_not():
    plain = Predictor(Lopsided(), {"BG": 0, "FB": 2}, (64, 96), 0.0, 1.0)
    image = torch.rand(2, 1, 64, 96)
    assert not torch.allclose(plain(image), plain(image).flip(-1), atol=0.1)
    probability = replace(plain, flip=True)(image).softmax(1)
    torch.testing.assert_close(probability, probability.flip(-1))
    expected = (plain(image).softmax(1) + plain(image.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(probability, expected)


def test_ensemble_is_the_mean_of_probabilities(predictor, picture):
    other = replace(predictor, size=(96, 160), mean=0.2)
    one, two, both = (next(segment(members, [picture])) for members in ([predictor], [other], [predictor, other]))
    same = (one.mask == two.mask) & (one.mask == both.mask)
    assert same.mean() > 0.9
    mean = (one.probability + two.probability) / 2
    np.testing.assert_allclose(both.probability[same], mean[same], atol=1e-5)


def test_confidence_is_the_mean_probability_in_the_region(predictor, picture):
    (result,) = segment([predictor], [picture])
    assert result.confidence(2) == pytest.approx(result.probability[result.mask == 2].mean())
    assert np.isnan(result.confidence(7))


def test_unknown_device():
    assert select_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "abacus"):
        with pytest.raises(UserError, match=f"device {name}: not available"):
            select_device(name)
