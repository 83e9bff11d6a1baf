"""Loader processes outside of Lightning."""

import multiprocessing
import os
import signal

import pytest
from torch.utils.data import DataLoader

from famseg.data.workers import batches_of


def interrupted(loader):
    with batches_of(loader) as batches:
        for _ in batches:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("processes", [0, 2])
def test_an_interruption_leaves_no_process(processes):
    loader = DataLoader(range(100), num_workers=processes)
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(loader)
    left = multiprocessing.active_children()
    for process in left:  # the tests would not end either
        process.kill()
    assert not left
    del caught  # until here its traceback holds the iterator, as it does where Python exits by it
