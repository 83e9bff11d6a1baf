"""Optimizer phases: which optimizer runs from which epoch, and at which rates (paper, section 3.4)."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from famseg.errors import UserError
from famseg.schedules import Decay, RateLimits, Span

UNUSED_RATE = 0.001  # that optimizers are built with; the schedule sets another one before the first step
OptimizerFactory = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class OptimizerOption:
    """An optimizer and the constants of Eq. (11)-(12) that belong to it.

    Attributes:
        name: short name for logs and metrics.csv.
        build: parameter groups -> optimizer; its rate is set by the phase.
        rates: the constants of Eq. (11)-(12).
    """

    name: str
    build: OptimizerFactory
    rates: RateLimits = field(default_factory=RateLimits)

    def __post_init__(self) -> None:
        """Refuse a rate that no epoch would have.

        Raises:
            UserError: `build` brings one, beside the one that torch wants before there is a schedule.
        """
        rate = getattr(self.build, "keywords", {}).get("lr", UNUSED_RATE)
        if rate != UNUSED_RATE:
            raise UserError(
                f"optimizer.build.lr={rate}: would not be used; optimizer.rates and the scheduler set the rates "
                f"(docs/training.md). Leave it at {UNUSED_RATE}, and give optimizer.rates.init_lr, limit_min "
                "and limit_max."
            )

    def optimizer(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        """The optimizer of these parameter groups.

        Args:
            groups: as torch takes them.
            fused: in one pass over all parameters where torch has such a form, unless `build` says which: tensor by
                tensor, as torch does on a CPU, a step of FAMSeg's 600 takes five times as long.
        """
        option = inspect.signature(self.build).parameters.get("fused")
        if fused and option is not None and option.default is None:
            return self.build(groups, fused=True)
        return self.build(groups)


@dataclass(frozen=True)
class Switch:
    """A change of the optimizer during a run (paper: AdamW for 150 epochs, then SGD for 50).

    Attributes:
        optimizer: what runs from here on.
        at: share of `max_epochs` (a float up to 1) or an epoch (an integer) at which the new optimizer starts.
        lr: `continue` goes on at the scheduled rate; `restart` starts the decay anew between the new optimizer's own
            rates over the epochs that remain; a number starts it there. After both, a cosine warms up again.
        then: a further switch.
    """

    optimizer: OptimizerOption
    at: float | int = 0.75
    lr: Literal["continue", "restart"] | float = "continue"
    then: "Switch | None" = None

    def __post_init__(self) -> None:
        """Refuse values that no run could follow."""
        if self.at <= 0 or (isinstance(self.at, float) and self.at > 1):
            raise UserError(f"switch.at={self.at}: give a share of the epochs in (0, 1] or an epoch of at least 1.")
        named = self.lr in ("continue", "restart")
        if not named and (isinstance(self.lr, str) or self.lr <= 0):
            raise UserError(f"switch.lr={self.lr}: give continue, restart or a positive learning rate.")

    def epoch(self, max_epochs: int) -> int:
        """First epoch of the new optimizer."""
        return self.at if isinstance(self.at, int) else max(1, round(self.at * max_epochs))


@dataclass(frozen=True)
class Phase:
    """One optimizer from one epoch on; what `continue` goes on with is `span` and `since`.

    Attributes:
        start: first epoch of the optimizer.
        optimizer: the optimizer.
        decay: learning rate from the span and the losses since epoch `since`.
        span: the rates and epochs of the decay.
        since: epoch at which the decay started.
    """

    start: int
    optimizer: OptimizerOption
    decay: Decay
    span: Span
    since: int

    def rate(self, losses: list[float]) -> float:
        """Learning rate of the coming epoch; `losses` holds the mean training loss of every finished epoch."""
        return self.decay(self.span, losses[self.since :])


def plan(
    optimizer: OptimizerOption, decay: Decay, switch: Switch | None, *, max_epochs: int, batch: int
) -> list[Phase]:
    """The phases of a run.

    Args:
        optimizer: optimizer of the first phase.
        decay: the decay of all phases.
        switch: what follows, if anything; a switch at or after `max_epochs` is planned and never reached.
        max_epochs: epochs of the run.
        batch: total batch over devices and accumulation, for Eq. (11)-(12).

    Raises:
        UserError: the starts of the switches do not rise.
    """
    first, last = optimizer.rates.fit(batch)
    phases = [Phase(0, optimizer, decay, Span(first, last, max_epochs), 0)]
    while switch is not None:
        start = switch.epoch(max_epochs)
        if start <= phases[-1].start:
            raise UserError(f"switch.at={switch.at} starts at epoch {start}, not after epoch {phases[-1].start}.")
        phases.append(_next_phase(phases[-1], switch, start, max_epochs, batch))
        switch = switch.then
    return phases


def _next_phase(before: Phase, switch: Switch, start: int, max_epochs: int, batch: int) -> Phase:
    if switch.lr == "continue":
        return replace(before, start=start, optimizer=switch.optimizer)
    first, last = switch.optimizer.rates.fit(batch)
    if switch.lr != "restart":
        first, last = float(switch.lr), min(last, float(switch.lr))
    span = Span(first, last, max(max_epochs - start, 1))
    return Phase(start, switch.optimizer, before.decay, span, since=start)


def index_at(phases: list[Phase], epoch: int) -> int:
    """Index of the phase that an epoch belongs to: a range test, so that no resume can step over a start."""
    return max(i for i, phase in enumerate(phases) if epoch >= phase.start)
