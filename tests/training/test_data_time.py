"""What a run counts as time for data: what a device waits for, not what the computer waits for beside it."""

import time

import pytest
import torch

from famseg.callbacks import data_time
from famseg.callbacks.data_time import DataTime


def test_between_a_step_and_the_next_batch(monkeypatch):
    moments = iter([0.0, 0.5, 2.0, 2.25, 10.0, 10.125])
    monkeypatch.setattr(data_time.time, "perf_counter", lambda: next(moments))
    clock = DataTime(torch.device("cpu"))
    clock.batch_is_there()
    clock.step_ends()
    clock.batch_is_there()
    assert clock.seconds() == 0.75
    clock.begin()
    clock.batch_is_there()
    assert clock.seconds() == 0.125


class Event:
    """A GPU's, by a clock of whole seconds."""

    alive = clock = 0

    def __init__(self):
        Event.alive, Event.clock = Event.alive + 1, Event.clock + 1
        self.at, self.over = Event.clock, False

    def __del__(self):
        Event.alive -= 1

    def synchronize(self):
        self.over = True

    def elapsed_time(self, later):
        assert later.over
        return 1000 * (later.at - self.at)


def test_a_long_epoch_does_not_keep_all_its_events(monkeypatch):
    monkeypatch.setattr(DataTime, "_now", lambda self: Event())
    monkeypatch.setattr(data_time, "MOST", 10)
    clock = DataTime(torch.device("cpu"))
    for _ in range(100):
        clock.batch_is_there()
        clock.step_ends()
    assert Event.alive <= 2 * 10 + 1
    assert clock.seconds() == clock.seconds() == 100


@pytest.mark.gpu
def test_a_gpu_that_works_does_not_wait():
    clock = DataTime(torch.device("cuda"))
    torch.cuda._sleep(400_000_000)  # cycles: 0.2 s
    clock.step_ends()
    time.sleep(0.05)
    clock.batch_is_there()
    assert clock.seconds() < 0.02
    clock.begin()
    time.sleep(0.05)
    clock.batch_is_there()
    assert 0.05 <= clock.seconds() < 0.1
