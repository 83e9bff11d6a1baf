"""A resume on one GPU is exact with trainer.deterministic=true: run with `pytest -m gpu -n 0`."""

import pytest
import torch

from famseg import resume
from famseg.signals import Preempted

pytestmark = pytest.mark.gpu
PRECISIONS = ["32-true", "bf16-mixed", "16-mixed"]  # the last one has a gradient scaler, whose state must go along


@pytest.fixture
def train(fit):
    def run(folder, precision, **options):
        return fit(folder, network=fit.small, accelerator="gpu", deterministic=True, precision=precision, **options)[1]

    return run


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resume_before_at_and_after_the_switch_is_bit_for_bit(train, fit, tmp_path, precision):
    whole = train("whole", precision).state_dict()
    for step in (4, 10, 13):  # an epoch has five steps, the switch is at 10
        folder = f"cut{step}"
        with pytest.raises(Preempted):
            train(folder, precision, callbacks=[fit.SignalAt(step)])
        last = str(tmp_path / folder / "checkpoints" / "last.ckpt")
        resumed = train(folder, precision, ckpt_path=last).state_dict()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), step
        assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / folder / "metrics.csv").read_bytes()


def test_a_run_that_lost_epochs_since_its_last_checkpoint_ends_the_same(train, fit, tmp_path):
    whole = train("whole", "bf16-mixed").state_dict()
    with pytest.raises(fit.Stopped):
        train("cut", "bf16-mixed", stop_after=3, save_every_s=1e9)
    point = resume.resume_point(str(tmp_path / "cut"), True)  # last.ckpt of the first epoch, or best.ckpt
    resumed = train("cut", "bf16-mixed", ckpt_path=point).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()
