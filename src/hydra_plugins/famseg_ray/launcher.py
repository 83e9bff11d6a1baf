"""Cells on Ray, which reserves GPUs and cores for each and starts the next when there is room.

The published plugin (hydra-ray-launcher 1.2.2) asks for boto3 and ray[default], lets cells without a GPU share
processes, runs a killed cell again three times in its folder, and with `max_retries=0` gives up the sweep for it.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

from famseg.errors import UserError
from famseg.signals import Preempted, leave, taken
from famseg.study.launcher import CellLauncher
from famseg.study.process import GRACE, last_words, start, wait
from famseg.study.work import Work, one_line

STORE = 78643200  # bytes, the least that Ray takes: cells exchange nothing


class RayLauncher(CellLauncher):
    """Runs as many cells at once as Ray has GPUs, or cores where it has none; see conf/hydra/launcher/ray.yaml.

    After SIGTERM, SIGUSR1 or Ctrl-C the cells that run save, no other starts, and the sweep ends.
    """

    def __init__(
        self,
        address: str | None = None,
        gpus_per_cell: float | None = None,
        cpus_per_cell: float = 1,
        num_gpus: int | None = None,
        num_cpus: int | None = None,
    ) -> None:
        self.address = address
        self.gpus_per_cell = gpus_per_cell
        self.cpus_per_cell = cpus_per_cell
        self.machine = {"num_gpus": num_gpus, "num_cpus": num_cpus}

    def require(self) -> None:
        """Ray is an extra."""
        if importlib.util.find_spec("ray") is None:
            raise UserError("hydra/launcher=ray needs Ray, which is not installed: pip install 'famseg[ray]'.")

    def run(self, works: Sequence[Work]) -> Iterator[tuple[Work, str]]:
        """Hand all cells to Ray and yield them as they end."""
        import ray

        self._start()
        waiting: dict[Any, Work] = {}
        try:
            remote = ray.remote(**self._needs())(_in_worker)
            waiting |= {remote.remote(work): work for work in works}
            with taken(leave):
                while waiting:
                    ended, _ = ray.wait(list(waiting))
                    for reference in ended:
                        yield waiting.pop(reference), _words(reference)
        except SystemExit:  # in `ray.wait`, which gives it a code of its own
            raise Preempted from None
        finally:
            _ask_to_leave(list(waiting))
            ray.shutdown()

    def _start(self) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {name: value for name, value in self.machine.items() if value is not None}
        if self.address is None:
            options |= {"include_dashboard": False, "object_store_memory": STORE}
        elif options:
            raise UserError("hydra.launcher.num_gpus and num_cpus are of this machine: leave them out with an address.")
        try:
            ray.init(self.address, log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"hydra.launcher.address={self.address}: Ray does not start ({one_line(error)})."
            ) from error

    def _needs(self) -> dict[str, Any]:
        """What Ray reserves for a cell; no second try behind our back, workers that stay and keep what is imported."""
        import ray

        has = ray.cluster_resources()
        gpus = self.gpus_per_cell
        if gpus is None:
            gpus = 1 if has.get("GPU", 0) >= 1 else 0
        for name, wanted, there in (("gpus", gpus, "GPU"), ("cpus", self.cpus_per_cell, "CPU")):
            if wanted > has.get(there, 0):
                raise UserError(
                    f"hydra.launcher.{name}_per_cell={wanted:g}: Ray has {has.get(there, 0):g} {there}s, so that no "
                    f"cell would ever start. Give less, or hydra.launcher.num_{name}=N for logical ones."
                )
        return {"num_gpus": gpus, "num_cpus": self.cpus_per_cell, "max_calls": 0, "max_retries": 0}


def _ask_to_leave(references: list[Any]) -> None:
    """Have cells that run save, and those that wait never start; of a sweep that came to its end there are none."""
    import ray

    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=GRACE)


def _in_worker(work: Work) -> str:
    """Run a cell in a process of its own; what it prints goes into its folder, a crash's last words with it."""
    process, connection = start(work, work.folder / "output.txt", survives=False)
    wait(process)
    return last_words(process, connection)


def _words(reference: Any) -> str:
    import ray

    try:
        return str(ray.get(reference))
    except ray.exceptions.RayError as error:
        return f"its process died: {one_line(error)}"
