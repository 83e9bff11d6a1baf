"""Three classes from sets that label one each: trained together, every class is learnt and none is unlearnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from famseg.data.concat import datamodule
from famseg.data.phantom import Phantom
from famseg.losses import CrossEntropyDice
from famseg.metrics.confusion import confusion_matrix, iou

pytestmark = pytest.mark.slow
FULL = ["BG", "FL", "FB"]


class OneLabelled(Phantom):
    """Images that show a head and a femur; the masks mark one of them."""

    def __init__(self, labelled, n, seed):
        super().__init__(n, (64, 64), seed, difficulty="easy", images_per_subject=1, planes={"both": 1.0})
        self.labelled = labelled

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        number = self.classes[self.labelled]
        mask = np.where(sample.mask == number, sample.mask, 0).astype(np.uint8)
        return replace(sample, mask=mask, known=frozenset({"BG", self.labelled}))


class SmallUNet(nn.Module):
    def __init__(self):
        super().__init__()

        def block(inputs, outputs):
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            return nn.Sequential(*layers, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.down = nn.ModuleList([block(1, 12), block(12, 24), block(24, 48)])
        self.up = nn.ModuleList([block(72, 24), block(36, 12)])
        self.head = nn.Conv2d(12, 3, 1)

    def forward(self, image):
        one = self.down[0](image)
        two = self.down[1](nn.functional.max_pool2d(one, 2))
        x = self.down[2](nn.functional.max_pool2d(two, 2))
        x = self.up[0](torch.cat([nn.functional.interpolate(x, scale_factor=2), two], 1))
        return self.head(self.up[1](torch.cat([nn.functional.interpolate(x, scale_factor=2), one], 1)))


def train(data, use_known, epochs):
    """IoU (BG, FL, FB) on completely labelled images after every other epoch."""
    torch.manual_seed(0)
    net, loss = SmallUNet(), CrossEntropyDice()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    scores = []
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        net.train()
        for batch in loader:
            optimizer.zero_grad()
            loss(net(batch["image"]), batch["mask"], batch["known"] if use_known else None).backward()
            optimizer.step()
        if epoch % 2:
            scores.append(score(net, data))
    return np.array(scores)


@torch.no_grad()
def score(net, data):
    net.eval()
    complete = Phantom(24, (64, 64), 9, difficulty="easy", planes={"both": 1.0})
    matrix = np.zeros((3, 3), np.int64)
    for index in range(len(complete)):
        sample = complete[index]
        image = (torch.from_numpy(sample.image)[None, None] / 255 - data.mean) / data.std
        matrix += confusion_matrix(sample.mask, net(image).argmax(1)[0].numpy(), 3)
    return iou(matrix)


def test_unlabelled_classes_are_learnt_from_the_other_set():
    sets = {"heads": OneLabelled("FB", 160, 1), "femora": OneLabelled("FL", 160, 2)}
    data = datamodule(sets, size=(64, 64), batch_size=8, folds=8, seed=0)
    data.setup("fit")
    assert list(data.classes) == FULL
    known, ignored = train(data, True, 8), train(data, False, 8)
    assert (known[-1] > known[0]).all()
    assert known[-1].min() > 0.6
    # Taken for background, each set unteaches the other's class. Two evaluations: one of so short a training is noisy.
    error = [1 - scores[-2:].mean(0) for scores in (known, ignored)]
    assert (error[0] < 0.7 * error[1])[1:].all()
