"""The load of this machine's GPUs while a sweep runs."""

import csv
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from famseg import nvml

LOADS = "gpus.csv"
COLUMNS = ("time", "gpu", "busy_percent", "memory_gib", "watts")


@contextmanager
def watched(study: Path, every: float = 1.0) -> Iterator[None]:
    """Append a row per GPU and moment to `gpus.csv`; no file where there is no NVIDIA GPU.

    Args:
        study: the study's folder.
        every: seconds between two looks.
    """
    gpus = nvml.visible_gpus()
    if not gpus:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(study / LOADS, gpus, every, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(path: Path, gpus: Sequence[nvml.Gpu], every: float, over: threading.Event) -> None:
    # a full disk ends the record, not the sweep
    with suppress(OSError), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        while True:
            now = time.time()
            for gpu in gpus:
                numbers = (gpu.busy(), gpu.memory(), gpu.watts())
                writer.writerow([f"{now:.2f}", gpu.name, *("" if math.isnan(n) else f"{n:.4g}" for n in numbers)])
            file.flush()
            if over.wait(every):
                return
