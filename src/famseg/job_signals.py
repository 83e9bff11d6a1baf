"""Signals while torch is imported, which takes seconds: Hydra calls this before the program's own code."""

from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from famseg.signals import give_back, take_to_leave


class JobSignals(Callback):
    """Leaves with exit code 75 on SIGTERM or SIGUSR1, from the moment that a run has its folder."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the signals."""
        self._before = take_to_leave()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Give them back."""
        give_back(self._before)
