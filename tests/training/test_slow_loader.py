"""What a run says of a loader that keeps it waiting."""

import time

import pytest

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.items import TrainItems


@pytest.mark.parametrize("lies_on_device", [False, True])
def test_a_slow_loader_is_said_once(fit, monkeypatch, caplog, lies_on_device):
    def slowly(items, key, read=TrainItems.__getitem__):
        time.sleep(0.02)  # a batch of four: many times the step of this network
        return read(items, key)

    monkeypatch.setattr(TrainItems, "__getitem__", slowly)
    monkeypatch.setattr(SegmentationDataModule, "lies_on_device", lies_on_device)
    fit(epochs=3)
    hints = [message for message in caplog.messages if "is waiting for images" in message]
    assert len(hints) == (0 if lies_on_device else 1)
    assert all("Give more data.num_workers than 0, or data.cache=ram or disk" in hint for hint in hints)
