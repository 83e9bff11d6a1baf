"""What a training cannot begin with: options out of range, splits without images; and what it is warned of."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from famseg.data.images import MIN_SIDE
from famseg.data.source import Problem, Source, unshown
from famseg.data.splits import Splits
from famseg.errors import UserError

log = logging.getLogger(__name__)

_SAID = 3  # warnings about files that a training prints; of more, their number


def require_options(
    size: Sequence[int],
    batch_size: int,
    num_workers: int | None,
    cache: str,
    cache_share: float,
    mean: float | None,
    std: float | None,
) -> None:
    """Ranges of a data module's options; types are looked at in the configuration (`famseg.value_types`).

    Raises:
        UserError: An option is out of its range.
    """
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise UserError(f"data.size={size}: give height and width, each at least {MIN_SIDE} px: data.size=[256,384].")
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size}: give a whole number, 1 or more.")
    if num_workers is not None and num_workers < 0:
        raise UserError(f"data.num_workers={num_workers}: give a whole number, 0 or more, or null.")
    if cache not in ("gpu", "ram", "disk", "none"):
        raise UserError(f"data.cache={cache}: give gpu, ram, disk or none.")
    if not 0 <= cache_share <= 1:
        raise UserError(f"data.cache_share={cache_share}: give a part of the GPU's memory, 0 to 1.")
    if mean is not None and not 0 <= mean <= 1:
        raise UserError(f"data.mean={mean}: give a number from 0 to 1, of x/255, or null to measure it.")
    if std is not None and not 0 < std <= 1:
        raise UserError(f"data.std={std}: give a number above 0, of x/255, up to 1, or null to measure it.")


def require_no_fatal(problems: Sequence[Problem]) -> None:
    """Refuse a source that cannot be trained on or tested.

    Raises:
        UserError: One of the problems is fatal; the first is named, with its file.
    """
    if bad := [problem for problem in problems if problem.fatal]:
        more = f" ({len(bad) - 1} more: `famseg data check` lists them)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}")


def require_training_images(splits: Splits) -> None:
    """Refuse to train, or to measure mean and std, on nothing.

    Raises:
        UserError: There are no training images.
    """
    if not splits["train"]:
        raise UserError(
            "The split has no training images (data.fold=all or data.split_file). To train, give data.fold a "
            "number; to test, give data.mean and data.std, which a trained model's checkpoint holds."
        )


def require_all_splits(splits: Splits, split_file: str | Path | None) -> None:
    """Refuse to train where nothing can be trained on, validated or tested.

    Raises:
        UserError: A split has no images.
    """
    require_training_images(splits)
    for split in ("val", "test"):
        if not splits[split]:
            raise UserError(
                f"The split has no {split} images (data.split_file={split_file}). List some: a run validates "
                "while it trains, and tests its best checkpoint."
            )


@rank_zero_only
def warn(problems: Sequence[Problem]) -> None:
    """Say what training goes on without, such as subjects that a table does not give: the split leans on them."""
    for problem in problems[:_SAID]:
        log.warning("%s", problem)
    if (more := len(problems) - _SAID) > 0:
        log.warning("%d more warnings: `famseg data check` lists them.", more)


@rank_zero_only
def warn_of_unshown(source: Source, shown: Collection[int]) -> None:
    """Name the classes of a source of which the training images, whose label ids are `shown`, have nothing."""
    for what, mend in unshown(source, shown):
        log.warning("The training images: %s. %s", what, mend)
