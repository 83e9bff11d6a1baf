"""Weights & Biases, which mirrors a run and never stops one."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from famseg.overlays import Panel
from famseg.study.cells import Cell, read_cell
from famseg.study.identity import cell_name

log = logging.getLogger(__name__)


def wandb(*, save_dir: str, offline: bool = True, **options: Any) -> Logger | None:
    """A wandb logger, or None with a warning when wandb is absent or does not start.

    The run is named by its folder, grouped by study and setting, its job type is the seed and, where one is chosen,
    the fold; it holds the resolved configuration and the code's revision. A resumed run goes on under its old id.

    Args:
        save_dir: the run's folder; wandb makes `wandb/` in it.
        offline: record only; `wandb sync` uploads later.
        **options: WandbLogger's own, such as the project.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # its banners would bury the run's own lines
    finish_wandb(exit_code=1)  # what another cell of this process may have left open would swallow this one
    try:
        from lightning.pytorch.loggers import WandbLogger  # a second to import

        labels = run_labels(read_cell(Path(save_dir)), options.pop("group", None))
        labels |= {"id": _old_id(Path(save_dir))} | ({} if offline else {"resume": "allow"})
        logger = WandbLogger(save_dir=save_dir, offline=offline, **labels, **options)
        vars(logger).get("_wandb_init", {}).pop("anonymous", None)  # Lightning's own, of which wandb warns each user
        _ = logger.experiment  # starts it now, where a failure can still be borne
    except Exception as error:  # whatever wandb dies of, the run goes on
        log.warning("wandb does not start (%s: %s); metrics.csv has everything.", type(error).__name__, error)
        return None
    return logger


def run_labels(cell: Cell, study: str | None) -> dict[str, Any]:
    """What wandb is told of a run beside its metrics: name, group, job type, tags and configuration.

    Args:
        cell: the run's folder, read.
        study: its study.
    """
    study = study or str(cell.config.get("study", "default"))
    repeats = [each for each in cell.overrides if each.startswith(("seed=", "data.fold="))]
    words = cell_name([each for each in cell.overrides if each not in repeats], cell.config)
    setting = f"{words.rpartition('+')[0]}+{cell.setting[:6]}"
    known = {"cell": cell.identity, "setting": cell.setting, "choices": _own(cell.choices)}
    return {
        "name": cell.name,
        "group": f"{study}/{setting}"[:128],  # wandb takes no longer ones
        "job_type": ", ".join([f"seed {cell.config.get('seed', '?')}", *_folds(repeats)]),
        "tags": [study[:64]],
        "config": {**cell.config, **known, "revision": cell.environment.get("revision")},
    }


def _folds(overrides: Sequence[str]) -> list[str]:
    return [f"fold {each.partition('=')[2]}" for each in overrides if each.startswith("data.fold=")]


def log_panels(loggers: Sequence[Logger], key: str, panels: Sequence[Panel], classes: Mapping[str, int]) -> None:
    """Show images in wandb, where a run has it: prediction and truth are layers that the page switches on and off.

    Args:
        loggers: the trainer's.
        key: under which they appear.
        panels: the images.
        classes: names -> ids.
    """
    names = {id_: name for name, id_ in classes.items()}
    masks = [
        {
            layer: {"mask_data": mask, "class_labels": names}
            for layer, mask in (("prediction", panel.prediction), ("truth", panel.truth))
            if mask is not None
        }
        for panel in panels
    ]
    for logger in _wandb_loggers(loggers):
        if panels:
            images = [panel.image for panel in panels]
            logger.log_image(key, images, caption=[panel.caption for panel in panels], masks=masks)


def log_classes(loggers: Sequence[Logger], key: str, totals: Mapping[str, float]) -> None:
    """A table in wandb, where a run has it: a row per class, a column per score that classes have.

    Args:
        loggers: the trainer's.
        key: under which it appears.
        totals: scores of a split, `<score>_<class>`.
    """
    classes = [name.removeprefix("iou_") for name in totals if name.startswith("iou_")]
    longest_first = sorted(classes, key=len, reverse=True)  # "iou_fetal_head" is not a score of "head"
    of = [(name, next((c for c in longest_first if name.endswith(f"_{c}")), None)) for name in totals]
    scores = list(dict.fromkeys(name.removesuffix(f"_{label}") for name, label in of if label))
    rows = [[name.upper(), *(totals.get(f"{score}_{name}") for score in scores)] for name in classes]
    for logger in _wandb_loggers(loggers):
        logger.log_table(key, columns=["class", *scores], data=rows)


def finish_wandb(exit_code: int) -> None:
    """Close wandb's run, if one is open: a further run in this process would otherwise go on in it."""
    module = sys.modules.get("wandb")
    if module is None or module.run is None:
        return
    try:
        module.finish(exit_code=exit_code)
    except Exception as error:
        log.warning("wandb does not close its run (%s: %s).", type(error).__name__, error)


def _own(choices: Mapping[str, str]) -> dict[str, str]:
    return {group: option for group, option in choices.items() if "/" not in group and "@" not in group}


def _wandb_loggers(loggers: Sequence[Logger]) -> list[Any]:
    from lightning.pytorch.loggers import WandbLogger

    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def _old_id(folder: Path) -> str | None:
    """The id under which the folder's run was recorded before, from the name `(offline-)run-TIME-ID`."""
    names = [path.name for path in (folder / "wandb").glob("*run-*-*")]
    return max(names, key=lambda name: name.partition("run-")[2]).rpartition("-")[2] if names else None
