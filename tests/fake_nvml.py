"""NVIDIA's library with two GPUs that are made up: GPU 0 takes 100 W, GPU 1 does not count its energy."""

import sys
import types


class NVMLError(Exception):
    pass


def install(monkeypatch, joules=(0.0,), present=True):
    """Put it in the place of pynvml; `joules` are what GPU 0 says, one after the other."""
    library = types.ModuleType("pynvml")
    says = iter(joules)

    def init():
        if not present:
            raise NVMLError("library not found")

    def by_index(number):
        if number > 1:
            raise NVMLError("invalid argument")
        return number

    def by_uuid(name):
        if name != "GPU-second":
            raise NVMLError("not found")
        return 1

    def energy(handle):
        if handle == 1:
            raise NVMLError("not supported")
        return int(1000 * next(says))

    library.NVMLError = NVMLError
    library.nvmlInit = init
    library.nvmlDeviceGetCount = lambda: 2
    library.nvmlDeviceGetHandleByIndex = by_index
    library.nvmlDeviceGetHandleByUUID = by_uuid
    library.nvmlDeviceGetTotalEnergyConsumption = energy
    library.nvmlDeviceGetPowerUsage = lambda handle: 100_000
    library.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=90 - 40 * handle, memory=5)
    library.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=3 * 2**30, total=80 * 2**30)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
