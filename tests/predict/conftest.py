"""A network that sees grey as femur and white as head, a tiny real checkpoint, and pictures for both."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from famseg.biometry import Ellipse
from famseg.inference import Predictor
from famseg.models import FAMSeg

CLASSES = {"BG": 0, "FL": 1, "FB": 2}
HEAD = Ellipse(190, 120, 90, 70, 0.4)  # px


class Brightness(nn.Module):
    """Logits from the grey value: black is background, middle grey femur, white head."""

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(40.0))

    def forward(self, image):
        levels = torch.tensor([0.0, 0.5, 1.0], device=image.device).view(1, 3, 1, 1)
        return -self.sharpness * (image - levels).abs()


@pytest.fixture
def predictor():
    return Predictor(Brightness().eval(), CLASSES, (128, 192), mean=0.0, std=1.0)


@pytest.fixture
def head():
    """The head of `picture`, px."""
    return HEAD


@pytest.fixture
def picture():
    """uint8 (240, 360): a white head and a grey femur of 60 px, which the brightness network segments."""
    image = np.where(HEAD.mask(240, 360), 255, 0).astype(np.uint8)
    image[200:212, 20:80] = 128
    return image


@pytest.fixture
def write_image(tmp_path):
    def write(name, pixels):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A run's folder with an untrained network of three classes."""
    size = {"widths": [16, 16, 16, 32], "depths": [1, 1, 1, 1], "decoder_widths": [32, 16, 16, 16, 16, 16]}
    size |= {"head_width": 16, "context_width": 32, "level_width": 16}
    torch.manual_seed(0)
    model = FAMSeg(num_classes=3, **size)
    data = {"classes": CLASSES, "size": [64, 96], "resize": "letterbox", "mean": 0.2, "std": 0.2}
    metadata = {"format": 1, "version": "0", "data": data}
    metadata["model"] = {"_target_": "famseg.models.FAMSeg", "num_classes": 3, **size}
    run = tmp_path_factory.mktemp("run")
    (run / "checkpoints").mkdir()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"famseg": metadata, "state_dict": state}, run / "checkpoints" / "best.ckpt")
    return run
