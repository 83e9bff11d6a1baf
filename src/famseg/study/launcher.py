"""What all launchers share: which cells run, in which folders, and what is said about them."""

import logging
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from famseg.errors import UserError
from famseg.locks import locked
from famseg.study.cells import Cell, read_study
from famseg.study.identity import cell_name, identity, resolved, varying
from famseg.study.progress import returned
from famseg.study.same_data import require_same_data
from famseg.study.sweep import Job, different, run_sweep, write_plan
from famseg.study.watch import watched
from famseg.study.work import Work

log = logging.getLogger(__name__)


class CellLauncher(Launcher):
    """Runs every cell in a process of its own; a launcher says how.

    One sweep at a time has a study's folder. What is done is left alone, what was cut off goes on, what failed runs
    again with `retry=failed`; a cell that fails or is killed stops no other.
    """

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self._cells: dict[Path, dict[str, Cell]] = {}

    @abstractmethod
    def run(self, works: Sequence[Work]) -> Iterator[tuple[Work, str]]:
        """Run cells; yield each when it has ended, with what ended it in one line, or ""."""

    def require(self) -> None:
        """Check what the launcher needs.

        Raises:
            UserError: something is not installed.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a sweep.

        Raises:
            CompactHydraException: not all cells are done; Hydra prints it without a trace and leaves with 1.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            return self._launch(job_overrides, initial_job_idx)
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    def _launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        self.require()
        every = self._jobs(job_overrides, first)
        jobs = different(every)
        with ExitStack() as stack:
            for study in sorted({job.folder.parent for job in jobs}):
                stack.enter_context(locked(study, "sweep"))
                stack.enter_context(watched(study))
            write_plan(jobs)
            cells = run_sweep(jobs, self.run, OmegaConf.select(self.config, "retry"))
        if unfinished := len(jobs) - sum(cell.state == "done" for cell in cells.values()):
            raise CompactHydraException(f"{unfinished} of {len(jobs)} cells are not done.")
        return [
            JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=returned(cells[job.folder]))
            for job in every
        ]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        names = varying(job_overrides)
        return [
            self._job(overrides, first + number, name)
            for number, (overrides, name) in enumerate(zip(job_overrides, names, strict=True))
        ]

    def _job(self, overrides: Sequence[str], number: int, telling: Sequence[str]) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        plain = resolved(config)
        study = Path(str(config.hydra.sweep.dir)).resolve()
        folder = study / cell_name(telling, plain)
        if cell := self._known(study).get(identity(plain)):
            require_same_data(cell, plain)
            folder = cell.folder
        with read_write(config.hydra):  # in words, so that every process means the same folder
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder.parent), folder.name
        if "resume" in config:
            config.resume = folder.exists()
        work = Work(
            folder=folder,
            config=config,
            context=self.hydra_context,
            function=self.task_function,
            singletons=Singleton.get_state(),
            directory=os.getcwd(),
            command=list(sys.argv),
        )
        choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
        known = {group: option for group, option in choices.items() if option is not None}
        return Job(work, list(overrides), known, plain)

    def _known(self, study: Path) -> dict[str, Cell]:
        """A study's cells by identity; of several, one that is done."""
        if study not in self._cells:
            cells = read_study(study) if study.is_dir() else []
            cells.sort(key=lambda cell: cell.state == "done")
            self._cells[study] = {cell.identity: cell for cell in cells if cell.identity}
        return self._cells[study]
