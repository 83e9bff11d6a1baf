"""What the benchmarks share: tables in Markdown, their places in a document, and what a number depends on."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from famseg.run import revision

END = "<!-- end -->"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A column for every key that a row has, to the right if it holds numbers."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    words = [any(isinstance(row.get(key), str) for row in rows) for key in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "".join("---|" if word else "---:|" for word in words)]
    return "\n".join(lines + ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in rows])


def insert(text: str, document: Path, name: str) -> None:
    """Replace what stands between `<!-- name -->` and the next `<!-- end -->`."""
    start = f"<!-- {name} -->"
    before, found, rest = document.read_text().partition(start)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"{document}: has no place for the table; it stands between {start} and {END}.")
    document.write_text(f"{before}{start}\n{text}\n{END}{after}")


def provenance(packages: Sequence[str]) -> dict[str, Any]:
    """Versions of Python and of the packages that are installed, revision, command without the interpreter's path."""
    versions = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    command = " ".join(["python", *map(os.path.normpath, sys.argv[:1]), *sys.argv[1:]])
    return {"python": platform.python_version(), "packages": versions, "revision": revision(), "command": command}


def in_words(about: dict[str, Any]) -> str:
    """What `provenance` found, as it stands above a table."""
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return f"Python {about['python']}, {versions}; revision {about['revision']}; `{about['command']}`"


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
