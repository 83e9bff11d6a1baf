"""What NVIDIA's driver says of its GPUs: energy, load, memory. Nothing where there is no such driver."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU; its numbers are the device's, of all processes on it.

    Attributes:
        name: as CUDA_VISIBLE_DEVICES has it.
        library: pynvml.
        handle: the library's.
    """

    name: str
    library: ModuleType
    handle: Any

    def joules(self) -> float:
        """Energy since the driver was loaded; NaN where the GPU does not count it (before Volta)."""
        return self._ask(lambda: self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3)

    def watts(self) -> float:
        """Power now."""
        return self._ask(lambda: self.library.nvmlDeviceGetPowerUsage(self.handle) / 1e3)

    def busy(self) -> float:
        """Percent of the last moment (up to a second) in which a kernel ran."""
        return self._ask(lambda: self.library.nvmlDeviceGetUtilizationRates(self.handle).gpu)

    def memory(self) -> float:
        """GiB in use."""
        return self._ask(lambda: self.library.nvmlDeviceGetMemoryInfo(self.handle).used / GIB)

    def _ask(self, question: Callable[[], float]) -> float:
        try:
            return float(question())
        except self.library.NVMLError:
            return math.nan


def visible_gpus() -> list[Gpu]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves; [] without NVIDIA's driver."""
    library = _library()
    if library is None:
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(library.nvmlDeviceGetCount())) if listed is None else listed.split(",")
    found = (_gpu(library, name.strip()) for name in names)
    return [gpu for gpu in found if gpu is not None]


def _library() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    library: ModuleType = pynvml
    return library


def _gpu(library: ModuleType, name: str) -> Gpu | None:
    try:
        if name.isdigit():
            return Gpu(name, library, library.nvmlDeviceGetHandleByIndex(int(name)))
        return Gpu(name, library, library.nvmlDeviceGetHandleByUUID(name)) if name else None
    except library.NVMLError:
        return None  # a logical GPU of a test, or a part of one (MIG), which counts no energy
