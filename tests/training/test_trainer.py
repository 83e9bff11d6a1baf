"""Values of `trainer` that Lightning would take in silence, or refuse in words of its own."""

import pytest
import torch

from famseg import trainer
from famseg.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches=0: give a whole number, 1 or more"),
        ({"check_val_every_n_epoch": 1.5}, "trainer.check_val_every_n_epoch=1.5"),
        ({"check_val_every_n_epoch": 3, "max_epochs": 2}, "trainer.check_val_every_n_epoch=3: of 2 epochs none"),
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val=-1: give a number above 0, or null"),
        ({"gradient_clip_val": "much"}, "trainer.gradient_clip_val=much"),
        ({"precision": "bf17"}, "trainer.precision=bf17: give auto or one of"),
        ({"keep_best": -3}, "trainer.keep_best=-3: give a whole number, 1 or more"),
        ({"save_every_s": -1}, "trainer.save_every_s=-1: give a number of seconds, 0 or more"),
        ({"save_every_s": float("nan")}, "trainer.save_every_s=nan"),
        ({"save_every_s": "often"}, "trainer.save_every_s=often"),
    ],
)
def test_a_value_that_cannot_be(options, message, tmp_path):
    with pytest.raises(UserError) as caught:
        trainer.build(output=str(tmp_path), **{"accelerator": "cpu", "precision": "32-true", **options})
    assert message in str(caught.value)


def test_a_deterministic_run_fills_no_new_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    trainer.build(output=str(tmp_path), accelerator="cpu", deterministic=True)
    assert not torch.utils.deterministic.fill_uninitialized_memory
