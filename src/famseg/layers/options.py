"""Checks of a network's options: what cannot be is refused by its key."""

from collections.abc import Sequence

from torch import Tensor

from famseg.errors import UserError


def require_numbers(least: int, **options: object) -> None:
    """Raise UserError unless each option is a whole number of at least `least`, or a sequence of such."""
    for key, value in options.items():
        numbers = value if isinstance(value, Sequence) else [value]
        if not all(isinstance(n, int) and n >= least for n in numbers):
            raise UserError(f"model.{key}={value}: give whole numbers, {least} or more.")


def require_lengths(**options: tuple[Sequence[object], int]) -> None:
    """Raise UserError unless each option, (values, number), has that number of values."""
    for key, (values, number) in options.items():
        if len(values) != number:
            raise UserError(f"model.{key}={list(values)} has {len(values)} values, it takes {number}.")


def require_rate(**options: float) -> None:
    """Raise UserError unless each option is a rate."""
    for key, value in options.items():
        if not 0 <= value < 1:
            raise UserError(f"model.{key}={value}: it is a rate, from 0 to below 1.")


def require_device(image: Tensor, parameter: Tensor) -> None:
    """Raise UserError unless an image is where a network's parameter is."""
    if image.device != parameter.device:
        places = f"The image is on {image.device}, the network on {parameter.device}."
        raise UserError(f"{places} Move one: image.to(...) or model.to(...).")


def require_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raise UserError unless `value` is one of `choices`; `key` names the option in the message."""
    if value not in choices:
        raise UserError(f"model.{key}={value!r} is unknown; choose one of {', '.join(map(str, choices))}.")
