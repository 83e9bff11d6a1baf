"""Which of the tested images a run has seen: what it was trained on is no test."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from famseg.data.splits import listed

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def with_split(rows: Sequence[Row], split_file: Path) -> list[dict[str, Any]]:
    """The rows with the column `split`: what a run had an image for, by its name, or "" where it does not list it.

    In a set of several the names begin with the set's, `hc18/000_HC.png`; one that is not listed is looked for without.

    Args:
        rows: a row per image, `file` first.
        split_file: split.csv of the run; without it nothing is known.
    """
    splits = listed(split_file) if split_file.exists() else {}
    bare = {PurePath(name).name: split for name, split in splits.items()}
    found = [splits.get(row["file"], bare.get(PurePath(row["file"]).name, "")) for row in rows]
    return [{"file": row["file"], "split": split, **row} for row, split in zip(rows, found, strict=True)]


def title(rows: Sequence[Row], split_file: Path) -> str:
    """What the images are, for the head of the table; where the run has seen some, a warning says how to mend it.

    Args:
        rows: as `with_split` returns them; without `split` they are the run's own test images.
        split_file: split.csv of the run.
    """
    count = Counter(row.get("split") for row in rows)
    train, val = count["train"], count["val"]
    if not train + val:
        return f"{len(rows)} test images"
    log.warning(
        "Of %d images, by their names, the run was trained on %d and chose its best checkpoint by %d: these are no "
        "test scores. Leave data out, or give data.split_file=%s; the column split of test.csv has each image's.",
        len(rows),
        train,
        val,
        split_file,
    )
    return f"{len(rows)} images, {train} trained on"
