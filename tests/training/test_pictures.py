"""What a run draws is what it scores."""

import pytest
import torch
from torch import nn

from famseg.data.transforms import Augmentation


class Precisions(nn.Conv2d):
    """Notes in which precision it predicts."""

    seen = ()

    def __init__(self):
        super().__init__(1, 3, 3, padding=1)

    def forward(self, image):
        logits = super().forward(image)
        if not self.training:
            Precisions.seen += ((len(image), logits.dtype),)
        return logits


def test_overlays_are_predicted_in_the_runs_precision(fit, monkeypatch):
    monkeypatch.setattr(Precisions, "seen", ())
    trainer, task = fit(epochs=1, switch=None, network=Precisions, precision="bf16-mixed")
    trainer.test(task, datamodule=trainer.datamodule, verbose=False)
    scored, drawn = [4, 4, 2], [2, 3]  # four images of validation, six of the test; batches of at most four
    assert sorted(images for images, _ in Precisions.seen) == sorted(scored + drawn)
    assert {dtype for _, dtype in Precisions.seen} == {torch.bfloat16}


@pytest.mark.parametrize("engine", ["albumentations", "gpu"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16), ("16-true", torch.float16)]
)
def test_a_run_in_one_precision(fit, monkeypatch, precision, dtype, engine):
    monkeypatch.setattr(Precisions, "seen", ())
    augment = Augmentation(engine=engine)
    trainer, task = fit(epochs=1, switch=None, network=Precisions, precision=precision, data={"augment": augment})
    trainer.test(task, datamodule=trainer.datamodule, verbose=False)
    assert {seen for _, seen in Precisions.seen} == {dtype}
