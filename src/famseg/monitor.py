"""The validation score that a run's best epoch is chosen by."""

from collections.abc import Collection

from famseg.errors import UserError

LOWER_IS_BETTER = frozenset({"val/loss"})  # of all others higher is


def require(monitor: str, scores: Collection[str]) -> None:
    """Check that a run has the score.

    Args:
        monitor: its name.
        scores: the names there are.

    Raises:
        UserError: it is none of them.
    """
    if monitor not in scores:
        raise UserError(f"monitor={monitor}: no such validation score. Give one of {', '.join(scores)}.")


def sign(monitor: str) -> int:
    """1 if higher is better, -1 if lower."""
    return -1 if monitor in LOWER_IS_BETTER else 1
