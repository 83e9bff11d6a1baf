"""Cells as the jobs of a Slurm array, by submitit."""

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from famseg.errors import UserError
from famseg.study.launcher import CellLauncher
from famseg.study.work import Work, one_line

LOGS = ".submitit"  # in the study's folder: scripts and what the jobs print


class SlurmLauncher(CellLauncher):
    """Submits all cells at once and waits for them; see conf/hydra/launcher/slurm.yaml."""

    def __init__(self, cluster: str = "slurm", poll: float = 10, parameters: Mapping[str, Any] | None = None) -> None:
        self.cluster = cluster
        self.poll = poll
        self.parameters = dict(parameters or {})

    def require(self) -> None:
        """Submitit is an extra."""
        if importlib.util.find_spec("submitit") is None:
            raise UserError("hydra/launcher=slurm needs submitit, which is not installed: pip install 'famseg[slurm]'.")

    def run(self, works: Sequence[Work]) -> Iterator[tuple[Work, str]]:
        """Submit an array and yield its jobs as they end."""
        import submitit

        try:
            executor = submitit.AutoExecutor(folder=works[0].folder.parent / LOGS, cluster=self.cluster)
            executor.update_parameters(**self.parameters)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"hydra.launcher: submitit refuses ({one_line(error)}).") from error
        jobs = executor.map_array(_Cell(), works)
        waiting = dict(zip(jobs, works, strict=True))
        while waiting:
            for job in [job for job in waiting if job.done()]:
                yield waiting.pop(job), _words(job)
            if waiting:
                time.sleep(self.poll)


class _Cell:
    """Runs a cell. When its time is over, submitit queues it again, and it goes on from its last epoch."""

    def __call__(self, work: Work) -> str:
        return work()

    def checkpoint(self, work: Work) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, work)


def _words(job: Any) -> str:
    import submitit

    try:
        return str(job.result())
    except submitit.core.utils.UncompletedJobError as error:
        return f"its job did not end: {one_line(error)[-200:]}"
