"""Where a run goes on: the folder that the same command made before, and its newest undamaged checkpoint."""

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from famseg.errors import UserError
from famseg.study.cells import read_cell
from famseg.study.identity import IGNORED, differing

log = logging.getLogger(__name__)

# What may differ when a run goes on: where its data lies (its split is compared by itself), what it runs on, and how
# long. The last is looked at more closely.
_MAY_CHANGE = re.compile(
    r"data\.(.+\.)?root|data\.split_file|callbacks\.nan\.on_nan"
    r"|trainer\.(accelerator|devices|num_nodes|strategy|sync_batchnorm|precision|max_epochs)"
)
_NAMED = 5  # keys in a message

# torch and Lightning are imported by the functions that need them: train.py --help does not.


class ResumeRefused(UserError):
    """A command that does not go on with the run it names; the run's record stays as it was."""


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


def require_same_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a command is that of the run which it would go on with, before it writes into the run's folder.

    Args:
        folder: the run's.
        config: the command's resolved configuration.

    Raises:
        ResumeRefused: the run has checkpoints and another configuration, or one that cannot be read.
    """
    if not any((folder / "checkpoints").glob("*.ckpt")):
        return  # nothing to go on from: the run starts
    path = folder / "config.yaml"
    run = read_cell(folder)
    if not run.config:
        raise ResumeRefused(f"{path}: cannot be read ({run.problem}). Restore it, or move {folder} away to start anew.")
    differ = [key for key in differing(run.config, config) if not _MAY_CHANGE.fullmatch(key)]
    if _epochs(config) < _epochs(run.config):
        differ.append("trainer.max_epochs")
    if differ:
        more = f" and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
        raise ResumeRefused(
            f"{path}: of another run; {', '.join(differ[:_NAMED])}{more} differ from this command's. Resume with its "
            "options, or start a run of its own: leave out resume=true and hydra.run.dir."
        )


def _epochs(config: Mapping[str, Any]) -> float:
    epochs = (config.get("trainer") or {}).get("max_epochs")
    return epochs if isinstance(epochs, (int, float)) else 0


def resume_point(
    output: str,
    resume: bool,
    model: Mapping[str, Any] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> str | None:
    """The checkpoint that a run goes on from: the newest of its folder that is not damaged; None to start anew.

    Args:
        output: the run's folder.
        resume: the option `resume`.
        model: the configuration of the network that will go on, as in a checkpoint's metadata; None: not compared.
        splits: files of train, val and test, by which the run would go on; None: not compared.

    Raises:
        ResumeRefused: all checkpoints are damaged, or of another network, or the images are split in another way.
    """
    from famseg.checkpoint_io import step_of

    folder = Path(output) / "checkpoints"
    present = _checkpoints(folder) if resume else []
    sound = [path for path in present if _is_sound(path)]
    if present and not sound:
        raise ResumeRefused(f"{folder}: every checkpoint is damaged. Start anew: resume=false.")
    if not sound:
        if resume:
            log.info("Nothing to resume in %s: the run starts.", output)
        return None
    newest = max(sound, key=step_of)  # of the same step the last one
    _require_same_network(newest, model)
    _require_same_split(Path(output) / "split.csv", splits)
    log.info("Going on from %s", newest)
    return str(newest)


def _checkpoints(folder: Path) -> list[Path]:
    """Those from which a run can go on; the best may be newer than the last, which not every epoch has."""
    from famseg.checkpoint_io import BEFORE_LAST, BEST, LAST

    return [path for name in (LAST, BEST, BEFORE_LAST) if (path := folder / name).exists()]


def _is_sound(path: Path) -> bool:
    from famseg.checkpoint_io import damage

    reason = damage(path)
    if reason is not None:
        log.warning("%s is damaged (%s); another checkpoint is used.", path, reason)
    return reason is None


def _require_same_network(path: Path, model: Mapping[str, Any] | None) -> None:
    from famseg.checkpoint import METADATA_KEY, load

    there = load(path)[METADATA_KEY]["model"]
    if model is None or there == model:
        return
    differ = sorted(key for key in {*there, *model} if there.get(key) != model.get(key))
    raise ResumeRefused(
        f"{path}: of another network; {', '.join(differ)} differ from this command's. Resume with the options of its "
        "run (config.yaml beside it), or start anew: resume=false."
    )


def _require_same_split(path: Path, splits: Mapping[str, Sequence[str]] | None) -> None:
    from famseg.data.splits import listed

    if splits is None or not path.exists():
        return
    before, now = listed(path), {name: split for split, names in splits.items() for name in names}
    new, gone = now.keys() - before.keys(), before.keys() - now.keys()
    moved = {name for name in now.keys() & before.keys() if now[name] != before[name]}
    if not (differ := sorted(new | gone | moved)):
        return
    raise ResumeRefused(
        f"{path}: the run was split in another way; {len(new)} images are new, {len(gone)} gone, {len(moved)} in "
        f"another split, {differ[0]} first, so that it would be tested on what it was trained on. Restore the data "
        f"set, or leave out what is new: hydra.run.dir={path.parent} data.split_file={path}"
    )


# `${run_folder:...}` in conf/train.yaml
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
