"""Learning rates against golden values and properties."""

from itertools import pairwise

import pytest

from famseg import schedules
from famseg.errors import UserError
from famseg.schedules import RateLimits, Span

PAPER = Span(1e-3, 1e-5, 200)


def rates(decay, span=PAPER, losses=None):
    losses = losses or [1.0] * span.epochs
    return [decay(span, losses[:epoch]) for epoch in range(span.epochs)]


@pytest.mark.parametrize(
    ("batch", "init", "last"),
    [(1, 1.5625e-4, 1.5625e-6), (2, 3.125e-4, 3.125e-6), (4, 6.25e-4, 6.25e-6), (7, 1e-3, 1e-5), (512, 1e-3, 1e-5)],
)
def test_equations_11_and_12(batch, init, last):
    assert RateLimits().fit(batch) == pytest.approx((init, last), rel=1e-12)


@pytest.mark.parametrize("given", [{"limit_min": 0.01}, {"limit_max": 1e-5}, {"min_lr": 0.1}])
def test_limits_the_wrong_way_round_are_refused(given):
    with pytest.raises(UserError, match=r"optimizer\.rates\.(limit_min|min_lr)=\S+: above (limit_max|init_lr)="):
        RateLimits(**given)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1e-4), (3, 1e-3), (150, 1.176e-4), (190, 1e-5), (199, 1e-5)])
def test_cosine_golden_values(epoch, rate):
    assert rates(schedules.cosine)[epoch] == pytest.approx(rate, rel=5e-4)


def test_cosine_warms_up_quadratically_and_then_only_falls():
    values = rates(schedules.cosine)
    assert values[1] == pytest.approx(1e-4 + 9e-4 / 9)
    assert all(later <= earlier for earlier, later in pairwise(values[3:]))
    assert values[189] > 1e-5


def test_step_has_ten_plateaus_of_equal_ratio():
    values = rates(schedules.step)
    plateaus = sorted(set(values), reverse=True)
    assert len(plateaus) == 10
    assert plateaus[1] / plateaus[0] == pytest.approx(0.5995, abs=1e-4)
    assert (values[0], values[19], values[199]) == (1e-3, 1e-3, pytest.approx(1e-5))


@pytest.mark.parametrize("decay", [schedules.step, schedules.cosine, schedules.poly, schedules.constant])
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 12])
def test_short_runs_stay_between_the_two_rates(decay, epochs):
    assert all(1e-5 <= rate <= 1e-3 for rate in rates(decay, Span(1e-3, 1e-5, epochs)))


def test_poly_is_a_line_for_power_one():
    values = rates(schedules.poly)
    assert values[0] == 1e-3
    assert values[100] == pytest.approx((1e-3 + 1e-5) / 2)


def test_adadelta_follows_the_window_of_the_loss():
    losses = [2.0 * 0.97**epoch for epoch in range(200)]
    values = rates(schedules.adadelta, losses=losses)
    rho = 0.951229424500714  # exp(-10 / 200)
    second = (rho * 2.0 + (1 - rho) * losses[1]) / 2.0
    assert values[:2] == [1e-3, 1e-3]
    assert values[2] == pytest.approx(1e-5 + (1e-3 - 1e-5) * second)


def test_adadelta_never_rises():
    losses = [1.0, 0.5, 0.2, 0.9, 3.0, 0.1] * 30
    values = rates(schedules.adadelta, losses=losses)
    assert all(later <= earlier for earlier, later in pairwise(values))


def test_plateau_halves_only_after_patience():
    span = Span(1e-3, 1e-5, 40)  # patience of two epochs
    assert schedules.plateau(span, [1.0, 1.0, 1.0]) == 1e-3
    assert schedules.plateau(span, [1.0] * 4) == 5e-4
    assert schedules.plateau(span, [1.0 - 0.01 * epoch for epoch in range(30)]) == 1e-3
    assert schedules.plateau(span, [1.0] * 40) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("decay", "option"),
    [
        (schedules.step, {"plateaus": 1}),
        (schedules.poly, {"power": -1}),
        (schedules.adadelta, {"window": 0}),
        (schedules.plateau, {"factor": 1}),
    ],
)
def test_an_impossible_constant_is_named(decay, option):
    with pytest.raises(UserError, match=f"scheduler.{next(iter(option))}="):
        decay(PAPER, [1.0, 0.5], **option)
