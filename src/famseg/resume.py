"""Where a run goes on: the folder that the same command made before, and its newest undamaged checkpoint."""

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from famseg.checkpoint_io import BEFORE_LAST, LAST, damage
from famseg.errors import UserError

log = logging.getLogger(__name__)

# Overrides that do not make another run of a command.
IGNORED = ("resume", "runs", "study", "trainer.progress", "data.num_workers", "logger", "hydra.")


def run_folder(study: str, resume: bool, overrides: Sequence[str]) -> str:
    """The folder of a run: with `resume`, the newest one in which the same overrides ran, else a new one.

    Args:
        study: folder of the study.
        resume: whether to look for a run to go on with.
        overrides: the command's overrides.
    """
    if resume:
        for folder in sorted(Path(study).glob("*/"), reverse=True):
            record = folder / ".hydra" / "overrides.yaml"
            if record.exists() and identity(OmegaConf.to_object(OmegaConf.load(record))) == identity(overrides):  # type: ignore[arg-type]
                return str(folder)
    return str(Path(study) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")


def identity(overrides: Sequence[str]) -> list[str]:
    """The overrides that tell one run from another, in a fixed order."""
    return sorted(override for override in overrides if not override.lstrip("+~").startswith(IGNORED))


def resume_point(output: str, resume: bool) -> str | None:
    """The checkpoint that a run goes on from: the last one of its folder that is not damaged; None to start anew.

    Args:
        output: the run's folder.
        resume: the option `resume`.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    folder = Path(output) / "checkpoints"
    present = [folder / name for name in (LAST, BEFORE_LAST) if (folder / name).exists()] if resume else []
    for path in present:
        reason = damage(path)
        if reason is None:
            log.info("Going on from %s", path)
            return str(path)
        log.warning("%s is damaged (%s); the checkpoint before it is used.", path, reason)
    if present:
        raise UserError(f"{folder}: every checkpoint is damaged. Start anew: resume=false.")
    if resume:
        log.info("Nothing to resume in %s: the run starts.", output)
    return None


# `${run_folder:...}` in conf/train.yaml; cached, since the folder of a process must not change with the clock
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)
