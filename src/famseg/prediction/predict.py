"""Predictions on files: masks, overlays and a table of millimetres, one bad file never losing the others."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from famseg.backends import load_network
from famseg.deploy import deployed
from famseg.errors import UserError
from famseg.files import write_bytes, write_table
from famseg.inference import Predictor, Segmentation, segment
from famseg.prediction.earlier import MASKS, OVERLAYS, TABLE
from famseg.prediction.findings import NOTICE, Findings, examine
from famseg.prediction.readout import draw_readout
from famseg.prediction.scans import Scan, read_scan


@dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
        file: the file.
        row: its line in `biometry.csv`.
        findings: None when the file could not be used.
        error: why it could not; empty when it could.
    """

    file: Path
    row: dict[str, Any]
    findings: Findings | None = None
    error: str = ""


@dataclass(frozen=True)
class Job:
    """How files are predicted.

    Attributes:
        members: networks, whose probabilities are averaged.
        out: folder of the results.
        spacing: mm per pixel of a file that does not know it itself.
        weeks: the known gestational age for centiles; NaN when not known.
        names: file -> stem of its results.
    """

    members: Sequence[Predictor]
    out: Path
    spacing: Callable[[Path], float]
    weeks: float = math.nan
    names: dict[Path, str] = field(default_factory=dict)


def load_members(
    checkpoints: Sequence[str], device: str = "auto", flip: bool = False, backend: str = "auto"
) -> list[Predictor]:
    """Load the networks of an ensemble (or one).

    Args:
        checkpoints: folders of runs, checkpoint files or ONNX files.
        device: auto, cpu, cuda, cuda:1 ...
        flip: average each network with its prediction on the mirrored image.
        backend: auto, torch, onnxruntime or openvino.

    Raises:
        UserError: one cannot be loaded, or their classes differ.
    """
    networks = (load_network(where, device, backend) for where in checkpoints)
    members = [replace(network, model=deployed(network.model), flip=flip) for network in networks]
    for where, member in zip(checkpoints, members, strict=True):
        if list(member.classes.items()) != list(members[0].classes.items()):
            one, other = dict(members[0].classes), dict(member.classes)
            raise UserError(f"{where}: its classes {other} are not those of {checkpoints[0]}, {one}. Leave one out.")
    return members


def predict(files: Sequence[Path], job: Job, batch: int = 8) -> list[Result]:
    """Predict on files and write `masks/`, `overlays/` and `biometry.csv`.

    Args:
        files: pictures; those that cannot be used are reported in the table, and the rest goes on.
        job: how, and where to.
        batch: how many pictures go through a network at a time.

    Returns:
        One result per file, in their order.
    """
    job = replace(job, names=unique_stems(files))
    results: list[Result] = []
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for result in progress.track(_results(files, job, batch), len(files), description="Predicting"):
                results.append(result)
    finally:  # an interrupted run keeps what it has measured
        if results:
            write_table(job.out / TABLE, _with_all_columns(results))
    return results


def unique_stems(files: Sequence[Path]) -> dict[Path, str]:
    """Names for the results of files: their stems without odd characters, numbered where two would be the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        stem = re.sub(r"[^\w.+ -]", "_", file.stem).strip(". ")[:100] or "image"
        name, count = stem, 1
        while name.lower() in taken:  # some file systems do not tell upper from lower case
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.lower())
        names[file] = name
    return names


def _results(files: Sequence[Path], job: Job, batch: int) -> Iterator[Result]:
    """Batch by batch: decoding, measuring and writing by threads, networks in between."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch):
            read = list(pool.map(partial(_read, job=job), files[start : start + batch]))
            scans = [item for item in read if isinstance(item, Scan)]
            segmentations = segment(job.members, [scan.image for scan in scans]) if scans else iter(())
            written = pool.map(partial(_write, job=job), scans, segmentations)
            yield from (next(written) if isinstance(item, Scan) else item for item in read)


def _read(file: Path, job: Job) -> Scan | Result:
    try:
        return read_scan(file, job.spacing)
    except UserError as error:
        return _failure(file, str(error))
    except Exception as error:  # a decoder's fault on one file must not lose the others
        return _failure(file, f"{file}: cannot be read ({type(error).__name__}: {error}).")


def _failure(file: Path, error: str) -> Result:
    return Result(file, {"notice": NOTICE, "file": str(file), "error": error}, error=error)


def _write(scan: Scan, segmentation: Segmentation, job: Job) -> Result:
    """Measure a picture, write its mask and overlay, and return its line of the table."""
    classes = job.members[0].classes
    findings = examine(segmentation, classes, scan.spacing, job.weeks)
    overlay = draw_readout(scan.image, segmentation.mask, findings, classes)
    name = f"{job.names[scan.file]}.png"
    write_bytes(job.out / MASKS / name, _png(segmentation.mask))
    write_bytes(job.out / OVERLAYS / name, _png(overlay[..., ::-1]))
    written = {"mask": f"{MASKS}/{name}", "overlay": f"{OVERLAYS}/{name}", "notes": "; ".join(scan.notes)}
    return Result(
        scan.file, {"notice": NOTICE, "file": str(scan.file), "error": ""} | findings.row() | written, findings
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def _with_all_columns(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Lines of the table, their columns in the order of the measured ones: a failure's line has few."""
    columns = dict.fromkeys(key for result in sorted(results, key=lambda r: bool(r.error)) for key in result.row)
    return [columns | result.row for result in results]
