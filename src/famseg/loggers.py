"""Weights & Biases, which mirrors a run and never stops one."""

import logging
import os
import sys
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
    os.environ.setdefault("WANDB_SILENT", "true")  # its banners would bury the run's own lines
    try:
        from lightning.pytorch.loggers import WandbLogger  # a second to import

        logger = WandbLogger(save_dir=save_dir, offline=offline, name=Path(save_dir).name, **options)
        _ = logger.experiment  # starts it now, where a failure can still be borne
    except Exception as error:  # whatever wandb dies of, the run goes on
        log.warning("wandb does not start (%s: %s); metrics.csv has everything.", type(error).__name__, error)
        return None
    return logger


def finish_wandb(exit_code: int) -> None:
    """Close wandb's run, if one is open: a further run in this process would otherwise go on in it."""
    module = sys.modules.get("wandb")
    if module is None or module.run is None:
        return
    try:
        module.finish(exit_code=exit_code)
    except Exception as error:
        log.warning("wandb does not close its run (%s: %s).", type(error).__name__, error)
