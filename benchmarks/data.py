"""Images per second of the data paths, what training steps wait for data, and memory of a large set.

    python benchmarks/data.py --hc18 DIR --json data.json               # every path in one run
    python benchmarks/data.py --hc18 DIR --steps --json steps.json      # data time within train.py, for each path
    python benchmarks/data.py --memory --json memory.json               # peak memory, HC18's size and ten times that

A path ends with normalised images and labels in a batch on the device that would train: the GPU if there is one.
`plain albumentations` and `torchvision v2` are what a user writes with a DataLoader: decode, letterbox, transform.
They use the same strengths; torchvision has no gamma and no multiplicative noise to draw, so it does less. With
--document, the table replaces what stands in that file between <!-- benchmarks/data.py cpu --> (or cuda, steps, memory)
and <!-- end -->.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from documents import in_words, insert, markdown, processor, provenance
from lightning.pytorch.plugins.precision import Precision
from plain_loaders import DEVICE, Albumentations, Batches, Torchvision, plain

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.hc18 import HC18
from famseg.data.phantom import Phantom
from famseg.data.source import Sample, Source, Stamp
from famseg.data.transforms import Augmentation
from famseg.processes import cores

HC18_SIZE = (540, 800)  # px of its images
HC18_IMAGES = 999


# Ours -------------------------------------------------------------------------------------------------------------


def ours(source: Source, options: argparse.Namespace, cache: str, engine: str, folder: str) -> Batches:
    data = SegmentationDataModule(
        source,
        size=options.size,
        batch_size=options.batch,
        num_workers=options.workers,
        augment=Augmentation(engine=engine),
        cache=cache,
        cache_dir=folder,
        mean=0.2,
        std=0.2,
    )
    data.trainer = trainer()
    data.setup("fit")
    loader = data.train_dataloader()

    def batches() -> Iterator[Any]:
        for batch in loader:
            tensors = data.on_before_batch_transfer(batch, 0)
            yield data.on_after_batch_transfer(data.transfer_batch_to_device(tensors, DEVICE, 0), 0)

    return batches


def trainer() -> Any:
    """What a datamodule asks of a trainer."""
    current = SimpleNamespace(processed=0, completed=0)
    progress = SimpleNamespace(current=current)
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress))
    strategy = SimpleNamespace(root_device=DEVICE)
    about = {"world_size": 1, "global_rank": 0, "precision_plugin": Precision()}
    return SimpleNamespace(**about, fit_loop=loop, strategy=strategy)


def paths(source: Source, options: argparse.Namespace, folder: str) -> dict[str, Callable[[], Batches]]:
    """Name -> makes the path ready."""
    made: dict[str, Callable[[], Batches]] = {
        "plain albumentations": lambda: plain(source, options, Albumentations()),
        "torchvision v2": lambda: plain(source, options, Torchvision()),
    }
    caches = ["none", "ram", "disk"] + (["gpu"] if DEVICE.type == "cuda" else [])
    for cache in caches:
        for engine in ("albumentations", "gpu"):
            if (cache, engine) != ("gpu", "albumentations"):
                name = f"cache={cache}, engine={engine}"
                made[name] = lambda cache=cache, engine=engine: ours(source, options, cache, engine, folder)
    return made


def rates(batches: Batches, options: argparse.Namespace) -> list[float]:
    """Images per second of each block, after a warm-up of one block."""
    found: list[float] = []
    count, start = 0, time.perf_counter()
    while len(found) <= options.blocks:
        for _ in batches():
            count += options.batch
            if time.perf_counter() - start > options.seconds:
                if DEVICE.type == "cuda":
                    torch.cuda.synchronize()
                found.append(count / (time.perf_counter() - start))
                count, start = 0, time.perf_counter()
                if len(found) > options.blocks:
                    break
    return found[1:]


def throughput(options: argparse.Namespace) -> list[dict[str, Any]]:
    source: Source = HC18(options.hc18) if options.hc18 else Large(300)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, prepare in paths(source, options, folder).items():
            try:
                start = time.perf_counter()
                batches = prepare()
                next(batches())
                ready = time.perf_counter() - start
                found = rates(batches, options)
            except ImportError as error:
                rows.append({"path": name, "failed": str(error)})
                continue
            row = {"path": name, "images/s": round(statistics.median(found)), "fastest": round(max(found))}
            rows.append(row | {"slowest": round(min(found)), "first batch after, s": round(ready, 2)})
            print(rows[-1], flush=True)
    return rows


# Within a training ------------------------------------------------------------------------------------------------


def steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Share of the time of training that waits for data, from train.py's timing.csv; the last epoch counts."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for cache, engine in (("none", "albumentations"), ("ram", "albumentations"), ("ram", "gpu"), ("gpu", "gpu")):
            runs = Path(folder) / f"{cache}-{engine}"
            keys = {
                "experiment": "hc18",
                "data.root": options.hc18,
                "data.size": f"[{options.size[0]},{options.size[1]}]",
                "data.batch_size": options.batch,
                "data.cache": cache,
                "data.augment.engine": engine,
                "data.num_workers": options.workers,
                "trainer.max_epochs": options.epochs,
                "trainer.progress": "false",
                "logger": "none",
                "runs": runs,
            }
            command = [
                sys.executable,
                "train.py",
                *(f"{key}={value}" for key, value in keys.items()),
                *options.override,
            ]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
            (timing,) = runs.rglob("timing.csv")
            header, *_, last = [line.split(",") for line in timing.read_text().split()]
            values = {key: float(value) for key, value in zip(header, last, strict=True)}
            share = 100 * values["data_seconds"] / values["train_seconds"]
            row = {"path": f"cache={cache}, engine={engine}", "images/s": round(values["images_per_s"])}
            rows.append(row | {"data, % of the time": round(share, 2)})
            print(rows[-1], flush=True)
    return rows


# Memory -----------------------------------------------------------------------------------------------------------


class Large:
    """As many images of HC18's size as wanted, made quickly: a few phantoms, rolled and brightened."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.few = [Phantom(8, HC18_SIZE, planes={"head": 1.0})[index] for index in range(8)]
        self.classes = {"BG": 0, "FB": 2}
        self.names = [f"{index:06d}.png" for index in range(count)]
        self.groups = self.names

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        few = self.few[index % len(self.few)]
        image = np.roll(few.image, index % 97, axis=1) // 2 + np.uint8(index % 120)
        assert few.mask is not None
        return Sample(self.names[index], self.groups[index], image, np.roll(few.mask, index % 97, axis=1), few.spacing)

    def problems(self, decode: bool = True) -> Iterator[Any]:
        """None."""
        return iter(())

    def stamp(self) -> Stamp:
        """Of the number of images."""
        return Stamp({"kind": "large", "count": self.count})


def one_epoch(options: argparse.Namespace) -> None:
    """Prints the peak memory of this process and of its largest loader process, MiB, after an epoch."""
    cache, count = options.epoch_of
    folder = options.scratch or tempfile.gettempdir()
    for _ in ours(Large(int(count)), options, cache, "auto", folder)():
        pass
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"own": round(own), "worker": round(workers)}))


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for cache in ("ram", "disk"):
            for count in (HC18_IMAGES, 10 * HC18_IMAGES):
                command = [sys.executable, __file__, "--epoch-of", cache, str(count), "--scratch", folder]
                command += ["--workers", str(options.workers), "--size", *map(str, options.size)]
                row: dict[str, Any] = {"cache": cache, "images": count}
                for run in ("first", "second"):  # the first run writes the file
                    if run == "second" and cache == "ram":
                        continue
                    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    peak = json.loads(out.splitlines()[-1])
                    row |= {f"{run} run, MiB": peak["own"], f"{run} run, a worker, MiB": peak["worker"]}
                rows.append(row)
                print(row, flush=True)
    return rows


# Report -----------------------------------------------------------------------------------------------------------


def environment(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
        "processor": processor(),
        "cpus": cores(),
        "batch": options.batch,
        "size": list(options.size),
        "workers": options.workers,
    } | provenance(("torch", "albumentations", "opencv-python-headless", "torchvision", "lightning"))


def titled(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    height, width = about["size"]
    machine = f"{about['device']}, {about['cpus']} CPU cores ({about['processor']})"
    return f"{machine}; batches of {about['batch']} at {height}x{width}; {in_words(about)}\n\n{markdown(rows)}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hc18", type=Path, metavar="DIR", help="HC18; without it, images of the phantom in memory")
    parser.add_argument("--steps", action="store_true", help="what trainings wait for data (needs --hc18)")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of images per second")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 384], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=min(8, cores()), help="loader processes")
    parser.add_argument("--blocks", type=int, default=5, help="blocks whose median counts (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a block (4)")
    parser.add_argument("--epochs", type=int, default=4, help="of the trainings of --steps (4)")
    parser.add_argument("--override", nargs="*", default=[], help="keys for the trainings of --steps")
    parser.add_argument("--scratch", metavar="DIR", help="folder for files of the benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--document", type=Path, metavar="FILE", help="Markdown file whose table to replace")
    parser.add_argument("--epoch-of", nargs=2, metavar=("CACHE", "IMAGES"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.epoch_of:
        one_epoch(options)
        return
    if options.steps and not options.hc18:
        raise SystemExit("benchmarks/data.py --steps needs --hc18 DIR.")
    name, measure = (
        ("steps", steps) if options.steps else ("memory", memory) if options.memory else (DEVICE.type, throughput)
    )
    rows = measure(options)
    about = environment(options)
    print(f"\n{titled(rows, about)}")
    if options.json:
        options.json.write_text(json.dumps({"environment": about, "results": rows}, indent=2))
    if options.document:
        insert(titled(rows, about), options.document, f"benchmarks/data.py {name}")


if __name__ == "__main__":
    main()
