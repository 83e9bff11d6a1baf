"""Samples at the network's size that are kept: in memory, or in a file that workers and runs share."""

import hashlib
import json
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import filelock
import numpy as np
import platformdirs
from numpy.typing import NDArray

from famseg.data.progress import parallel
from famseg.data.source import Pixels, Stamp
from famseg.errors import UserError

log = logging.getLogger(__name__)

Known = NDArray[np.bool_]
Histogram = NDArray[np.int64]


class Prepared(NamedTuple):
    """A sample at the network's input size.

    Attributes:
        image: uint8 (H, W).
        mask: uint8 (H, W) of output indices.
        known: bool (classes,), which classes the mask marks wherever they are (`Sample.known`).
    """

    image: Pixels
    mask: Pixels
    known: Known


Entry = tuple[Prepared, Histogram]  # a sample, and how many pixels of its image have each grey level


class Store(Protocol):
    """Samples by their index in the source."""

    def __contains__(self, index: int) -> bool: ...

    def __getitem__(self, index: int) -> Entry: ...


class DiskStore:
    """All samples of a source in one file of equal records, read one at a time.

    A record is copied from the system's file cache, which workers and runs share, so that the memory of a run does not
    grow with the set. The open file stays readable when another one takes its place.

    Args:
        path: The file.
        size: Height and width of the samples.
        classes: Number of classes.
    """

    def __init__(self, path: Path, size: tuple[int, int], classes: int) -> None:
        self.path, self.size, self.classes = path, size, classes
        self._open()

    def __len__(self) -> int:
        return os.fstat(self._file).st_size // self._dtype.itemsize

    def __contains__(self, index: int) -> bool:
        """Whether the sample could be decoded when the file was written."""
        return os.pread(self._file, 1, index * self._dtype.itemsize) == b"\1"

    def __getitem__(self, index: int) -> Entry:
        """A copy of the sample."""
        size = self._dtype.itemsize
        record = np.frombuffer(bytearray(os.pread(self._file, size, index * size)), self._dtype)[0]
        return Prepared(record["image"], record["mask"], record["known"]), record["counts"]

    def _open(self) -> None:
        self._dtype = _record(self.size, self.classes)
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, which a process that is not forked must open anew."""
        return {"path": self.path, "size": self.size, "classes": self.classes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file anew."""
        self.__dict__.update(state)
        self._open()


def shared_store(
    folder: Path | None,
    stamp: Stamp,
    size: tuple[int, int],
    classes: Sequence[str],
    count: int,
    read: Callable[[int], Entry],
) -> DiskStore:
    """The file of a source's samples, written first if there is none of this content.

    The name of the file follows from the stamp, `size`, `classes`, and the code and library that decode. Of several
    processes that want one file, one writes it and the others wait; it appears whole or not at all. A file of the same
    source whose files have changed since is removed.

    Args:
        folder: Where such files lie; None: the user's cache folder.
        stamp: Of the source.
        size: Height and width of the samples.
        classes: Names of the classes in the order of the outputs.
        count: Number of samples.
        read: Decodes a sample; what raises a UserError is left out of the file.

    Raises:
        UserError: The file cannot be written.
    """
    folder = folder or Path(platformdirs.user_cache_dir("famseg")) / "samples"
    origin = _digest([_code(), cv2.__version__, stamp.options, size, classes])
    stem = f"{re.sub(r'[^a-z0-9]', '', str(stamp.options.get('kind', 'set')))}-{size[0]}x{size[1]}-{origin}"
    path = folder / f"{stem}-{_digest(stamp.files)}.samples"
    with _locked(folder / f"{stem}.lock"):
        if not path.exists():
            _write(path, _record(size, len(classes)), count, read)
            for old in folder.glob(f"{stem}-*.samples"):
                if old != path:
                    old.unlink(missing_ok=True)
        return DiskStore(path, size, len(classes))


def _record(size: tuple[int, int], classes: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("there", "?"),
            ("known", "?", (classes,)),
            ("counts", "<i8", (256,)),
            ("image", "u1", size),
            ("mask", "u1", size),
        ]
    )


def _write(path: Path, dtype: np.dtype[Any], count: int, read: Callable[[int], Entry]) -> None:
    def record(index: int) -> bytes:
        out = np.zeros(1, dtype)
        with suppress(UserError):  # raised again when the sample is used
            (image, mask, known), counts = read(index)
            out[0] = True, known, counts, image, mask
        return out.tobytes()

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            for data in parallel(record, range(count), f"Writing {path.name}"):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    log.info("Samples kept in %s (%.2f GiB)", path, count * dtype.itemsize / 2**30)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("Waiting for another process that decodes the same images (%s)", path)
            lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be written ({error.strerror}). Give data.cache_dir=DIR or data.cache=ram.")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def _code() -> str:
    """Of the code that decodes, so that a change of it is not missed."""
    package = Path(__file__).parents[1]
    files = sorted(file for part in ("data", "biometry") for file in (package / part).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
