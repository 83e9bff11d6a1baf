"""Phases: what runs when, and at which rate."""

import functools

import pytest
import torch

from famseg import schedules
from famseg.errors import UserError
from famseg.phases import OptimizerOption, Switch, index_at, plan
from famseg.schedules import RateLimits, Span

ADAMW = OptimizerOption("adamw", torch.optim.AdamW)
SGD = OptimizerOption("sgd", torch.optim.SGD, RateLimits(limit_min=5e-4, limit_max=0.1))


def phases(switch, decay=schedules.cosine, max_epochs=200):
    return plan(ADAMW, decay, switch, max_epochs=max_epochs, batch=16)


def test_paper_switches_at_150_of_200():
    adamw, sgd = phases(Switch(SGD, at=0.75))
    assert (adamw.start, sgd.start, sgd.optimizer.name) == (0, 150, "sgd")
    assert [index_at([adamw, sgd], epoch) for epoch in (0, 149, 150, 199)] == [0, 0, 1, 1]


def test_continue_goes_on_with_the_curve():
    adamw, sgd = phases(Switch(SGD, lr="continue"))
    losses = [1.0] * 150
    assert sgd.rate(losses) == adamw.rate(losses) == pytest.approx(1.176e-4, rel=5e-4)


def test_restart_begins_the_new_optimizers_own_curve():
    _, sgd = phases(Switch(SGD, lr="restart"), decay=schedules.poly)
    assert sgd.span == Span(2.5e-3, 2.5e-5, 50)
    assert sgd.rate([1.0] * 150) == 2.5e-3


def test_a_number_is_where_the_new_curve_starts():
    _, sgd = phases(Switch(SGD, lr=0.02), decay=schedules.poly)
    assert sgd.rate([1.0] * 150) == 0.02
    assert sgd.rate([1.0] * 199) < 1e-3


def test_a_cosine_warms_up_again():
    _, sgd = phases(Switch(SGD, lr=0.02), decay=schedules.cosine)
    assert sgd.rate([1.0] * 150) == pytest.approx(0.002)
    assert sgd.rate([1.0] * 153) == pytest.approx(0.02, rel=1e-3)


def test_restarted_adadelta_forgets_the_losses_before():
    _, sgd = phases(Switch(SGD, lr="restart"), decay=schedules.adadelta)
    assert sgd.rate([5.0] * 150) == sgd.span.init


def test_several_switches():
    starts = [phase.start for phase in phases(Switch(SGD, at=0.5, then=Switch(ADAMW, at=180)))]
    assert starts == [0, 100, 180]


@pytest.mark.parametrize("at", [0, -1, 1.5])
def test_impossible_start(at):
    with pytest.raises(UserError, match=r"switch\.at"):
        Switch(SGD, at=at)


@pytest.mark.parametrize("lr", ["later", -1.0, 0.0])
def test_impossible_rate(lr):
    with pytest.raises(UserError, match=r"switch\.lr"):
        Switch(SGD, lr=lr)


def test_starts_must_rise():
    with pytest.raises(UserError, match="not after epoch 100"):
        phases(Switch(SGD, at=0.5, then=Switch(ADAMW, at=80)))


@pytest.mark.parametrize("option", [ADAMW, OptimizerOption("adam", torch.optim.Adam), SGD])
def test_an_optimizer_in_one_pass_does_the_same_steps(option):
    weights, steps = torch.randn(2, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    results = []
    for fused in (True, False):
        parameters = [row.clone().requires_grad_() for row in weights]
        optimizer = option.optimizer([{"params": parameters, "lr": 0.1}], fused)
        assert bool(optimizer.defaults["fused"]) is fused
        for step in steps:
            for parameter in parameters:
                parameter.grad = step.clone()
            optimizer.step()
        results.append(torch.stack(parameters))
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], weights)


def test_an_optimizer_that_says_how_or_has_no_such_form_is_left_alone():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1}]
    said = OptimizerOption("adamw", functools.partial(torch.optim.AdamW, fused=False))
    assert said.optimizer(groups).defaults["fused"] is False
    assert "fused" not in OptimizerOption("adadelta", torch.optim.Adadelta).optimizer(groups).defaults
    assert isinstance(OptimizerOption("own", lambda groups: torch.optim.SGD(groups)).optimizer(groups), torch.optim.SGD)


def test_a_rate_that_no_epoch_would_have_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.build\.lr=0\.1: would not be used.*optimizer\.rates\.init_lr"):
        OptimizerOption("sgd", functools.partial(torch.optim.SGD, lr=0.1))
    assert OptimizerOption("sgd", functools.partial(torch.optim.SGD, lr=0.001, momentum=0.9)).name == "sgd"
