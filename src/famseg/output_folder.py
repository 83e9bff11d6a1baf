"""The folder of a run or a sweep: made before Hydra needs it, refused if another run has it."""

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from famseg.errors import UserError
from famseg.resume import require_same_run
from famseg.study.identity import resolved


class OutputFolder(Callback):
    """Refuses a folder that cannot be written in one sentence, before Hydra stumbles over it with a stack trace."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a single run, if it is not another run's."""
        if not isinstance(config.get("resume", False), bool):
            raise SystemExit(f"resume={config.resume}: give true or false.")
        folder = Path(config.hydra.run.dir)
        _refuse_used(folder, config, "resume=true, or leave out hydra.run.dir")
        _refuse_another(folder, config)
        _make(folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Guard the cells of a sweep from launchers that know nothing of them, such as Hydra's own."""
        _refuse_used(Path(config.hydra.runtime.output_dir), config, "leave out hydra/launcher, or choose ray or slurm")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a sweep."""
        _make(Path(config.hydra.sweep.dir))


def _refuse_used(folder: Path, config: DictConfig, mend: str) -> None:
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return  # a further process of the run that has just made the folder (DDP)
    if (folder / "status.json").exists() and not config.get("resume"):
        raise SystemExit(f"{folder}: holds a run already. Go on with it: {mend}.")


def _refuse_another(folder: Path, config: DictConfig) -> None:
    """Here, since Hydra writes into the folder before the program does; a sweep finds its cells by what they are."""
    if rank_zero_only.rank or not config.get("resume"):  # type: ignore[attr-defined]
        return
    try:
        require_same_run(folder, resolved(config))
    except UserError as error:
        raise SystemExit(str(error)) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # Hydra swallows exceptions of its callbacks, but not this one
        raise SystemExit(f"{folder}: cannot be written ({error.strerror}). Give another folder: runs=DIR.") from None
