"""Where a run goes on: the folder that the same command made before, and its newest undamaged checkpoint."""

import functools
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from famseg.errors import UserError
from famseg.study.identity import IGNORED

log = logging.getLogger(__name__)

# torch and Lightning are imported by the functions that need them: train.py --help does not.


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
    return str(Path(study) / _now())


@functools.cache
def _now() -> str:
    """The time of the first call: Hydra asks several times, and the folder of a process must not change.

    To the microsecond, since a script starts several runs within one second.
    """
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


def identity(overrides: Sequence[str]) -> list[str]:
    """The overrides that tell one run from another, in a fixed order."""
    return sorted(override for override in overrides if not override.lstrip("+~").startswith(IGNORED))


def resume_point(output: str, resume: bool, model: Mapping[str, Any] | None = None) -> str | None:
    """The checkpoint that a run goes on from: the last one of its folder that is not damaged; None to start anew.

    Args:
        output: the run's folder.
        resume: the option `resume`.
        model: the configuration of the network that will go on, as in a checkpoint's metadata; None: not compared.

    Raises:
        UserError: all checkpoints are damaged, or they are of another network.
    """
    from famseg.checkpoint_io import BEFORE_LAST, LAST, damage

    folder = Path(output) / "checkpoints"
    present = [folder / name for name in (LAST, BEFORE_LAST) if (folder / name).exists()] if resume else []
    for path in present:
        reason = damage(path)
        if reason is None:
            _require_same(path, model)
            log.info("Going on from %s", path)
            return str(path)
        log.warning("%s is damaged (%s); the checkpoint before it is used.", path, reason)
    if present:
        raise UserError(f"{folder}: every checkpoint is damaged. Start anew: resume=false.")
    if resume:
        log.info("Nothing to resume in %s: the run starts.", output)
    return None


def _require_same(path: Path, model: Mapping[str, Any] | None) -> None:
    from famseg.checkpoint import METADATA_KEY, load

    there = load(path)[METADATA_KEY]["model"]
    if model is None or there == model:
        return
    differ = sorted(key for key in {*there, *model} if there.get(key) != model.get(key))
    raise UserError(
        f"{path}: of another network; {', '.join(differ)} differ from this command's. Resume with the options of its "
        "run (config.yaml beside it), or start anew: resume=false."
    )


# `${run_folder:...}` in conf/train.yaml
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
