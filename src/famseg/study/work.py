"""One cell of a sweep, as it travels to the process that runs it."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from famseg.study.spans import begin


@dataclass(frozen=True)
class Work:
    """A cell and all that its process needs to run it; to be pickled by value (cloudpickle).

    Attributes:
        folder: the cell's folder, absolute.
        config: its composed configuration, with Hydra's part.
        context: Hydra's.
        function: the program, such as train.py's `main`.
        singletons: Hydra's state.
        directory: where relative paths start, if the process's machine has it.
        command: the command line, for the record.
    """

    folder: Path
    config: DictConfig
    context: HydraContext
    function: TaskFunction
    singletons: Any
    directory: str
    command: Sequence[str]

    def __call__(self) -> str:
        """Run the cell in this process.

        Returns:
            What ended it, in one line; "" if it came to its end. What became of it is in its status.json.
        """
        begin(self.folder)
        setup_globals()
        Singleton.set_state(self.singletons)
        HydraConfig.instance().set_config(self.config)
        sys.argv = list(self.command)
        with suppress(OSError):
            os.chdir(self.directory)
        try:
            job = run_job(
                hydra_context=self.context,
                task_function=self.function,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            _ = job.return_value  # raises what the program raised
        except CompactHydraException as error:
            return one_line(error)
        except (SystemExit, KeyboardInterrupt) as error:
            return f"left with {error!r}"
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {one_line(error)}"
        return ""


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
