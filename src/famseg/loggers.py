"""Weights & Biases, which mirrors a run and never stops one."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


def wandb(*, save_dir: str, offline: bool = True, **options: Any) -> Logger | None:
    """A wandb logger, or None with a warning when wandb is absent or does not start.

    Args:
        save_dir: the run's folder; wandb makes `wandb/` in it.
        offline: record only; `wandb sync` uploads later.
        **options: WandbLogger's own, such as project and group.
    """
    try:
        from lightning.pytorch.loggers import WandbLogger  # a second to import

        logger = WandbLogger(save_dir=save_dir, offline=offline, name=Path(save_dir).name, **options)
        _ = logger.experiment  # starts it now, where a failure can still be borne
    except Exception as error:  # whatever wandb dies of, the run goes on
        log.warning("wandb does not start (%s: %s); metrics.csv has everything.", type(error).__name__, error)
        return None
    return logger
