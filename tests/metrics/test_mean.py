"""The mean of an epoch's loss."""

import math

import pytest
import torch
from torchmetrics import MeanMetric

from famseg.metrics.mean import FiniteMean


def test_the_mean_is_that_of_torchmetrics():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    ours, reference = FiniteMean(), MeanMetric()
    for count, value in enumerate(values, start=1):
        ours.update(count * value, count)
        reference.update(value, weight=count)
    assert float(ours.compute()) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_what_is_not_finite_is_left_out():
    mean = FiniteMean()
    for value in (1.0, math.nan, 3.0, math.inf):
        mean.update(2 * torch.tensor(value), 2)
    assert float(mean.compute()) == 2.0


def test_of_nothing_there_is_none():
    mean = FiniteMean()
    mean.update(torch.tensor(math.nan), 4)
    assert math.isnan(mean.compute())


def test_taken_up_again_it_is_exactly_the_same():
    values = torch.rand(21, generator=torch.Generator().manual_seed(1))
    whole, first, second = FiniteMean(), FiniteMean(), FiniteMean()
    for value in values:
        whole.update(3 * value, 3)
    for value in values[:10]:
        first.update(3 * value, 3)
    second.update(first.total, first.count)
    for value in values[10:]:
        second.update(3 * value, 3)
    assert torch.equal(second.compute(), whole.compute())
