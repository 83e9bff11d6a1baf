"""What a run draws is what it scores."""

import pytest
import torch
from torch import nn

from famseg import inference
from famseg.data.transforms import Augmentation
from famseg.evaluation import results


class Precisions(nn.Conv2d):
    """Notes in which precision it predicts."""

    seen = frozenset()

    def __init__(self):
        super().__init__(1, 3, 3, padding=1)

    def forward(self, image):
        logits = super().forward(image)
        if not self.training:
            Precisions.seen |= {(len(image), logits.dtype)}
        return logits


def test_overlays_are_predicted_in_the_runs_precision(fit, monkeypatch):
    monkeypatch.setattr(Precisions, "seen", frozenset())
    drawn = []

    def segment(*arguments):
        Precisions.seen = frozenset()
        yield from inference.segment(*arguments)
        drawn.append(Precisions.seen)

    monkeypatch.setattr(results, "segment", segment)
    trainer, task = fit(epochs=1, switch=None, network=Precisions, precision="bf16-mixed")
    drawn.append("of the validation")
    trainer.test(task, datamodule=trainer.datamodule, verbose=False)
    assert drawn[0] != "of the validation" != drawn[-1]
    for seen in set(drawn) - {"of the validation"}:
        assert {dtype for _, dtype in seen} == {torch.bfloat16}
        assert max(images for images, _ in seen) <= trainer.datamodule.batch_size


@pytest.mark.parametrize("engine", ["albumentations", "gpu"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16), ("16-true", torch.float16)]
)
def test_a_run_in_one_precision(fit, monkeypatch, precision, dtype, engine):
    monkeypatch.setattr(Precisions, "seen", frozenset())
    augment = Augmentation(engine=engine)
    trainer, task = fit(epochs=1, switch=None, network=Precisions, precision=precision, data={"augment": augment})
    trainer.test(task, datamodule=trainer.datamodule, verbose=False)
    assert {seen for _, seen in Precisions.seen} == {dtype}
