"""What a sheet shows is predicted as many images at a time as the run has room for."""

import numpy as np
import torch
from torch import nn

from famseg.data.source import Sample
from famseg.evaluation.results import panels
from famseg.inference import Predictor


class Sizes(nn.Module):
    """Says class 1 where an image is bright; keeps the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.seen, self.weight = [], nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.seen.append(len(images))
        return torch.cat([torch.zeros_like(images), images * self.weight], 1)


def test_each_image_has_its_own_prediction():
    names = [f"{i}.png" for i in range(5)]
    images = [np.full((8 + i, 12), 255 * (i % 2), np.uint8) for i in range(5)]
    samples = [Sample(name, name, image, None, 1.0) for name, image in zip(names, images, strict=True)]
    source = type("Source", (), {"names": names, "__getitem__": lambda self, i: samples[i]})()
    network = Sizes()
    predictor = Predictor(network, {"background": 0, "head": 1}, (8, 12), mean=0.5, std=1.0)
    drawn = panels(predictor, source, [(name, f"of {name}") for name in reversed(names)], at_once=2)
    assert network.seen == [2, 2, 1]
    assert [panel.caption for panel in drawn] == [f"of {name}" for name in reversed(names)]
    for panel in drawn:
        assert panel.prediction.shape == panel.image.shape
        assert (panel.prediction[4, 6] == 1) == (panel.image[4, 6] == 255)
