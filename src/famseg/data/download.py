"""Fetch public sets from their records: checked, resumed when the connection breaks, unpacked."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pooch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from famseg.errors import UserError

HC18_URL = "https://zenodo.org/records/1327317/files"
# MD5 sums, as Zenodo's record lists them.
HC18_FILES = {
    "training_set.zip": "md5:00eb8198b9a505b2b3a6dfc740382497",
    "training_set_pixel_size_and_HC.csv": "md5:c0761518fece2bd2d2ad4218f2cd9777",
    "test_set.zip": "md5:8402af5d137ef40a2888c1011ef3fe7e",
    "test_set_pixel_size.csv": "md5:8476dc198cc6542f26c57e87faeee033",
}
FETAL_PLANES_URL = "https://zenodo.org/records/3904280/files"
FETAL_PLANES_FILES = {"FETAL_PLANES_ZENODO.zip": "md5:2a5fcc2cefb789bcc0f6c1f73e0ea43f"}
FEMUR_RECORD = "https://api.figshare.com/v2/articles/30819911"  # doi 10.5522/04/30819911; lists files with checksums
CHUNK = 1 << 18  # bytes
TIMEOUT = 60.0  # s without a byte


def download_hc18(
    destination: str | Path,
    *,
    base_url: str = HC18_URL,
    files: dict[str, str] = HC18_FILES,
    attempts: int = 5,
    pause: float = 2.0,
) -> Path:
    """Fetch HC18 (CC BY 4.0) and unpack it in its official layout.

    What is complete already is not fetched again, what was begun goes on where it stopped, within one call and
    between calls. The archives stay beside the unpacked folders and may be deleted.

    Args:
        destination: Folder, made if necessary; `data.root` of a training.
        base_url: Where the files lie: `base_url/NAME?download=1`.
        files: Name -> checksum, `md5:...` or `sha256:...`.
        attempts: Connections tried before giving up.
        pause: Seconds before the second attempt, doubled after each.

    Returns:
        The folder.

    Raises:
        UserError: The server does not have a file or cannot be reached, the connection keeps breaking, a checksum is
            wrong, an archive is not safe to unpack, or the folder cannot be written.
    """
    wanted = {name: (f"{base_url}/{name}?download=1", checksum) for name, checksum in files.items()}
    return _download(Path(destination), wanted, attempts, pause)


def download_femur(
    destination: str | Path,
    *,
    record: str = FEMUR_RECORD,
    base_url: str = FETAL_PLANES_URL,
    files: dict[str, str] = FETAL_PLANES_FILES,
    attempts: int = 5,
    pause: float = 2.0,
) -> Path:
    """Fetch end points of femora and the Fetal Planes images (CC BY 4.0, 2 GB), as `download_hc18` does.

    Args:
        destination: Folder, made if necessary; `data.root` of a training.
        record: Address of the end points' record, whose JSON lists `files` with `name`, `download_url` and
            `computed_md5`.
        base_url: Where the images lie.
        files: Name -> checksum of the images' files.
        attempts: Connections tried before giving up.
        pause: Seconds before the second attempt, doubled after each.

    Returns:
        The folder.

    Raises:
        UserError: As `download_hc18`; the record does not list its files as expected.
    """
    wanted = _record_files(record)
    wanted |= {name: (f"{base_url}/{name}?download=1", checksum) for name, checksum in files.items()}
    return _download(Path(destination), wanted, attempts, pause)


def _record_files(record: str) -> dict[str, tuple[str, str]]:
    """Name -> address and checksum of a record's files."""
    request = urllib.request.Request(record, headers={"User-Agent": "famseg"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            files = json.load(response)["files"]
        return {Path(file["name"]).name: (file["download_url"], f"md5:{file['computed_md5']}") for file in files}
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{record}: the connection failed ({getattr(error, 'reason', error)}). Try again.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{record}: does not list its files as expected. Fetch them by hand (docs/data.md).") from None


def _download(folder: Path, files: dict[str, tuple[str, str]], attempts: int, pause: float) -> Path:
    """Fetch name -> (address, checksum) into a folder and unpack the archives."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (url, checksum) in files.items():
            fetch(url, folder / name, checksum, attempts=attempts, pause=pause)
            if name.endswith(".zip"):
                unpack(folder / name, folder)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written ({error.strerror}).") from None
    return folder


def fetch(url: str, path: Path, checksum: str, *, attempts: int = 5, pause: float = 2.0) -> None:
    """Download one file, unless it is there already with the right checksum.

    Raises:
        UserError: As `download_hc18`.
        OSError: The file cannot be written.
    """

    def resume(url: str, output_file: str, _: Any) -> None:
        part = path.with_name(f"{path.name}.part")
        _fetch_part(url, part, attempts, pause)
        os.replace(part, output_file)

    pooch.get_logger().setLevel("WARNING")  # the progress line says the rest
    try:
        pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=resume)
    except ValueError:  # pooch's word for a wrong checksum; it has removed the file
        raise UserError(f"{url}: what came is not the published file (its checksum differs). Try again.") from None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, and nowhere else.

    Raises:
        UserError: The archive is damaged, or names a file outside of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise UserError(f"{archive}: wants to write {name!r} outside of {folder}. Do not use this archive.")
            content.extractall(folder)
    except zipfile.BadZipFile:
        raise UserError(f"{archive}: is no complete zip archive. Delete it and download it again.") from None


def _fetch_part(url: str, part: Path, attempts: int, pause: float) -> None:
    """Complete `part`, over several connections if need be."""
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(part.stem, total=None)
        for attempt in range(attempts):
            time.sleep(pause * 2 ** (attempt - 1) if attempt else 0)
            reason = _fetch_some(url, part, lambda done, total: progress.update(task, completed=done, total=total))
            if not reason:
                return
    have = part.stat().st_size / 1e6 if part.exists() else 0.0
    raise UserError(f"{url}: {reason} ({have:.1f} MB so far). Run the same command again: it goes on from there.")


def _fetch_some(url: str, part: Path, report: Any) -> str:
    """Append to `part` what one connection brings; "" when it is complete, else why it is not."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "famseg", "Range": f"bytes={have}-"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server sends all of it again
                have = 0
            total = have + int(response.headers.get("Content-Length", 0))
            have = _append(response, part, have, total, report)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have: it was complete
            return ""
        if error.code < 500 and error.code != 429:
            raise UserError(f"{url}: the server answers {error.code} {error.reason}. Check the address.") from None
        return f"the server answers {error.code} {error.reason}"
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection failed ({getattr(error, 'reason', None) or error})"
    return "" if have >= total else "the connection broke"


def _append(response: Any, part: Path, have: int, total: int, report: Any) -> int:
    with part.open("ab" if have else "wb") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            report(have, total or None)
    return have
