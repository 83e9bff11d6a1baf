"""What the benchmarks share: tables in Markdown, their places in a document, and the names of command and processor."""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

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


def command() -> str:
    """The command line, without the interpreter's path."""
    return " ".join(["python", *map(os.path.normpath, sys.argv[:1]), *sys.argv[1:]])


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
