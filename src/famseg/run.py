"""A run's folder: its resolved configuration, environment and status."""

import json
import logging
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import CompactHydraException, InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

import famseg
from famseg.checkpoint_io import LAST
from famseg.configuration import without_value
from famseg.errors import UserError
from famseg.files import write_atomically, write_bytes
from famseg.locks import locked
from famseg.loggers import finish_wandb
from famseg.resume import ResumeRefused
from famseg.revision import revision
from famseg.signals import Preempted, leaving, taken
from famseg.value_types import require_types

log = logging.getLogger(__name__)

CODE = revision()  # as it is imported: a cell of a sweep may start hours after, with files that have changed

PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "albumentations",
    "numpy",
    "opencv-python-headless",
    "segmentation-models-pytorch",
    "timm",
    "wandb",
    "mamba-ssm",
)


@contextmanager
def recorded(config: DictConfig) -> Iterator[Path]:
    """Seed a run and record it in `config.output`: `config.yaml`, `environment.json`, `status.json`.

    The state of `status.json` is running, done, failed or resumable. SIGTERM and SIGUSR1 end the run as resumable; in
    the training `famseg.callbacks.Preemption` saves first. Mistakes of the user are passed on as one message without a
    stack trace; the trace is in `status.json`.

    Yields:
        The run's folder.
    """
    folder = Path(config.output)
    with _alone(folder), _kept_if_refused(folder), leaving(), _status(folder), _in_words():
        _open(folder, config)
        require_types(config)
        _seed(config.seed)
        yield folder
    log.info("Done: %s", folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; of several processes of one run, the first does."""
    with ExitStack() as stack:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            with _in_words():
                stack.enter_context(locked(folder, "run"))
        yield


@contextmanager
def _kept_if_refused(folder: Path) -> Iterator[None]:
    """Put back the record of a run that a command does not go on with."""
    paths = [folder / name for name in ("config.yaml", "environment.json", "status.json")]
    before = {path: path.read_bytes() for path in paths if path.exists()}
    try:
        yield
    except CompactHydraException as error:
        if _refused(error) and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            for path, content in before.items():
                write_bytes(path, content)
        raise


def _refused(error: BaseException) -> bool:
    return isinstance(error.__cause__, ResumeRefused)


@contextmanager
def _status(folder: Path) -> Iterator[None]:
    """Keep status.json, and end wandb's run with the same outcome."""
    started = time.time()
    try:
        with _in_words():
            _write_status(folder, "running", started)
        yield
        finish_wandb(exit_code=0)
        _write_status(folder, "done", started)
    except BaseException as error:
        with taken(signal.SIG_IGN):  # a cluster may ask twice
            _record_end(folder, started, error)
        if isinstance(error, SIGTERMException):  # in the test, which starts anew in a resumed run
            raise Preempted from error
        raise


def _record_end(folder: Path, started: float, error: BaseException) -> None:
    """Of a run that did not come to its end."""
    finish_wandb(exit_code=1)
    if _refused(error):
        return
    if _asked_to_stop(error):
        _write_status(folder, "resumable", started)
        _say_how_to_go_on(folder, error)
        return
    _write_status(folder, "failed", started, traceback.format_exc(), quiet=True)
    if isinstance(error, CompactHydraException):
        log.error("The run failed, see %s", folder / "status.json")


def _say_how_to_go_on(folder: Path, error: BaseException) -> None:
    last = folder / "checkpoints" / LAST
    if isinstance(error, Preempted) and error.saved:
        return  # it has been said
    if last.exists():
        log.warning("Stopped. The same command with resume=true goes on from the newest checkpoint in %s.", last.parent)
    else:
        log.warning("Stopped before there was anything to save.")


def _asked_to_stop(error: BaseException) -> bool:
    """Ctrl-C, which Lightning turns into an exit within the trainer, or a signal of the cluster."""
    asked = (Preempted, SIGTERMException, KeyboardInterrupt)
    return isinstance(error, asked) or isinstance(error.__context__, KeyboardInterrupt)


def describe(model: DictConfig) -> dict[str, Any]:
    """The plain metadata of a checkpoint; the task adds the data's at each save.

    Args:
        model: the model's configuration, `_target_` and arguments.
    """
    arguments = OmegaConf.to_container(model, resolve=True)
    return {"format": 1, "version": famseg.__version__, "revision": CODE, "model": arguments}


def environment() -> dict[str, Any]:
    """Versions, code revision, device, command line and working directory of this process."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "famseg": famseg.__version__,
        "revision": CODE,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "packages": {name: _version(name) for name in PACKAGES},
        "command": sys.argv,
        "directory": str(Path.cwd()),
    }


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn a UserError, also one from within an instantiation, into an error that Hydra prints without a trace."""
    try:
        yield
    except UserError as error:
        raise CompactHydraException(str(error)) from error
    except MisconfigurationException as error:
        raise CompactHydraException(f"trainer: {error}") from error
    except MissingMandatoryValue as error:
        raise CompactHydraException(without_value(error)) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise CompactHydraException(
            "A loader process died, most likely for want of memory. Go on with resume=true and fewer of them: "
            f"data.num_workers=0 ({error})."
        ) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise CompactHydraException(str(error.__cause__)) from error
        raise


def _seed(seed: object) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}.")
    lightning.seed_everything(seed, workers=True, verbose=False)


def _open(folder: Path, config: DictConfig) -> None:
    with write_atomically(folder / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(config, resolve=True))
    with write_atomically(folder / "environment.json") as file:
        json.dump(environment(), file, indent=2)


def _write_status(folder: Path, state: str, started: float, trace: str | None = None, quiet: bool = False) -> None:
    now = time.time()
    status = {
        "state": state,
        "started": started,
        "updated": now,
        "seconds": round(now - started, 1),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "error": trace,
    }
    try:
        with write_atomically(folder / "status.json") as file:
            json.dump(status, file, indent=2)
    except UserError:  # a full disk: the run's own error says so
        if not quiet:
            raise


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
