"""Learning rates: Eq. (11)-(12) for the two ends, and the decays in between.

A decay is a plain function of the span (its two rates and its length) and of the training losses of the epochs that
are over. The history of losses is therefore the whole state of a schedule: it fits a checkpoint as a list of floats,
and a resumed run computes the same rates.

The paper (section 4.2, Table 2) names Step, Adadelta and cosine decay and gives none of their constants. Those here
are the ones of a widely used training script that shares Eq. (11)-(12); each is an argument.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from famseg.errors import UserError


class Span(NamedTuple):
    """The epochs that one decay covers and the rates at their ends."""

    init: float
    min: float
    epochs: int


class Decay(Protocol):
    """Learning rate of the epoch that follows the epochs whose mean training losses are given."""

    def __call__(self, span: Span, losses: Sequence[float]) -> float:
        """Rate of epoch `len(losses)` of the span."""
        ...


@dataclass(frozen=True)
class RateLimits:
    """The four constants of Eq. (11)-(12) (section 4.2).

    Attributes:
        init_lr: rate at a total batch of 64 before the limits.
        min_lr: rate at the end of the decay at a total batch of 64.
        limit_min: lower limit of the first rate; a hundredth of it limits the last rate.
        limit_max: upper limit of the first rate; a hundredth of it limits the last rate.
    """

    init_lr: float = 1e-2
    min_lr: float = 1e-4
    limit_min: float = 1e-4
    limit_max: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse rates that no optimizer takes.

        Raises:
            UserError: one is no positive number, or the smaller of two is the larger one.
        """
        for key, value in vars(self).items():
            if not isinstance(value, (int, float)) or value <= 0:
                raise UserError(f"optimizer.rates.{key}={value}: give a positive number.")
        for low, high in (("limit_min", "limit_max"), ("min_lr", "init_lr")):
            if vars(self)[low] > vars(self)[high]:
                given = f"optimizer.rates.{low}={vars(self)[low]}"
                raise UserError(f"{given}: above {high}={vars(self)[high]}. Give {high} as well, or a smaller one.")

    def fit(self, batch: int) -> tuple[float, float]:
        """First and last learning rate for a total batch (over devices and accumulation), Eq. (11) and (12)."""
        init = min(max(batch / 64 * self.init_lr, self.limit_min), self.limit_max)
        last = min(max(batch / 64 * self.min_lr, self.limit_min / 100), self.limit_max / 100)
        return init, last


def constant(span: Span, losses: Sequence[float]) -> float:
    """No decay: the first rate throughout."""
    return span.init


def cosine(
    span: Span,
    losses: Sequence[float],
    *,
    warmup: float = 0.05,
    warmup_epochs: int = 3,
    warmup_start: float = 0.1,
    tail: float = 0.05,
    tail_epochs: int = 15,
) -> float:
    """Quadratic warm-up, half a cosine, then the last rate.

    Args:
        span: rates and epochs.
        losses: one per finished epoch; only their number counts.
        warmup: share of the epochs that warm up, at least one epoch.
        warmup_epochs: the most epochs that warm up.
        warmup_start: share of the first rate at which the warm-up starts, at least 1e-6.
        tail: share of the epochs that stay at the last rate, at least one epoch.
        tail_epochs: the most epochs that stay there.
    """
    epoch = len(losses)
    rising = min(max(warmup * span.epochs, 1), warmup_epochs)
    flat = min(max(tail * span.epochs, 1), tail_epochs)
    if epoch < rising:
        start = max(warmup_start * span.init, 1e-6)
        return start + (span.init - start) * (epoch / rising) ** 2
    if epoch >= span.epochs - flat:
        return span.min
    angle = math.pi * (epoch - rising) / (span.epochs - rising - flat)
    return span.min + 0.5 * (span.init - span.min) * (1 + math.cos(angle))


def step(span: Span, losses: Sequence[float], *, plateaus: int = 10) -> float:
    """Plateaus of equal length, each lower by the same factor, from the first rate to the last.

    Raises:
        UserError: less than two plateaus.
    """
    if plateaus < 2:
        raise UserError(f"scheduler.plateaus={plateaus}: give at least 2, the first rate and the last.")
    plateau = min(int(len(losses) * plateaus / span.epochs), plateaus - 1)
    return span.init * math.pow(span.min / span.init, plateau / (plateaus - 1))


def poly(span: Span, losses: Sequence[float], *, power: float = 1.0) -> float:
    """Polynomial decay; a power of 1 is SegNeXt's own (arXiv 2209.08575).

    Raises:
        UserError: a power below 0.
    """
    if power < 0:
        raise UserError(f"scheduler.power={power}: give 0 or more.")
    return span.min + (span.init - span.min) * math.pow(1 - min(len(losses) / span.epochs, 1), power)


def adadelta(span: Span, losses: Sequence[float], *, window: float = 0.1) -> float:
    """Rate in proportion to a decaying average of the loss, never rising.

    The paper lists Adadelta among the "loss reduction methods" and does not define it. This reading keeps Adadelta's
    decaying window (arXiv 1212.5701) and applies it to the loss that is being reduced: with the average
    `L <- rho L + (1 - rho) loss`, the rate is `min + (init - min) * s`, `s` the smallest `L / L_first` so far.

    Args:
        span: rates and epochs.
        losses: mean training loss of each finished epoch.
        window: memory of the average as a share of the epochs: `rho = exp(-1 / (window * epochs))`, 0.951 for 200.

    Raises:
        UserError: no window.
    """
    if window <= 0:
        raise UserError(f"scheduler.window={window}: give a share of the epochs, above 0.")
    if not losses or losses[0] <= 0:
        return span.init
    rho = math.exp(-1 / (window * span.epochs))
    average, share = losses[0], 1.0
    for loss in losses[1:]:
        average = rho * average + (1 - rho) * loss
        share = min(share, average / losses[0])
    return span.min + (span.init - span.min) * max(share, 0.0)


def plateau(
    span: Span, losses: Sequence[float], *, factor: float = 0.5, patience: float = 0.05, threshold: float = 1e-3
) -> float:
    """Rate lowered whenever the loss has not fallen for a while.

    Args:
        span: rates and epochs.
        losses: mean training loss of each finished epoch.
        factor: what the rate is multiplied with, down to the last rate.
        patience: epochs without improvement that are borne, as a share of all epochs, at least one.
        threshold: relative fall that counts as an improvement.

    Raises:
        UserError: a factor that does not lower the rate.
    """
    if not 0 < factor < 1:
        raise UserError(f"scheduler.factor={factor}: give a number between 0 and 1.")
    rate, best, bad = span.init, math.inf, 0
    for loss in losses:
        if loss < best * (1 - threshold):
            best, bad = loss, 0
            continue
        bad += 1
        if bad > max(patience * span.epochs, 1):
            rate, bad = max(rate * factor, span.min), 0
    return rate
