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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_in_another_precision_has_the_mean_of_all_its_losses(dtype):
    network = torch.nn.Module()
    network.mean = FiniteMean()
    network.to(dtype)
    for value in (0.5, 1.0) * 3000:
        network.mean.update(16 * torch.tensor(value, dtype=dtype), 16)
    assert float(network.mean.compute()) == 0.75
    network.mean.reset()
    network.mean.update(torch.tensor(4097.0), 1)
    assert float(network.mean.compute()) == 4097


def test_it_goes_where_the_network_goes():
    assert FiniteMean().to("meta", torch.bfloat16).total.device.type == "meta"
