"""Which sample is for training, validation and test: by group, from a seed or from a published file."""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from famseg.data.tables import read_rows
from famseg.errors import UserError

Splits = dict[str, list[str]]
SPLITS = ("train", "val", "test")


def split_by_group(
    names: Sequence[str],
    groups: Sequence[str],
    *,
    fold: int | str = 0,
    folds: int = 5,
    val_fraction: float = 0.125,
    seed: int = 0,
) -> Splits:
    """Seeded k-fold split in which no group straddles two parts.

    Args:
        names: One name per sample.
        groups: One group per sample.
        fold: The fold that is tested, 0 to `folds - 1`; "all": every sample is tested, nothing is trained on.
        folds: Number of folds.
        val_fraction: Part of what is not tested that is used for validation.
        seed: The groups are dealt to the folds in an order that follows from it.

    Returns:
        Names of train, val and test, in the order of `names`.

    Raises:
        UserError: The fold does not exist, or there are too few groups.
    """
    if fold == "all":
        return {"train": [], "val": [], "test": list(names)}
    if folds < 2:
        raise UserError(f"data.folds={folds}: give at least 2; data.fold=all tests every image.")
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise UserError(f"data.fold={fold}: there are folds 0 to {folds - 1} (data.folds={folds}), or `all`.")
    if not 0 < val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction}: give a number between 0 and 1.")
    unique = sorted(set(groups))
    if len(unique) < folds or len(unique) - math.ceil(len(unique) / folds) < 2:  # one each for train and val
        raise UserError(
            f"{len(names)} images of {len(unique)} examinations or subjects are too few for data.folds={folds}. "
            "Each fold needs one, training and validation one each. Give another data.folds, or data.fold=all."
        )
    part = _deal(unique, groups, fold, folds, val_fraction, seed)
    return {split: [n for n, g in zip(names, groups, strict=True) if part[g] == split] for split in SPLITS}


def _deal(
    unique: Sequence[str], groups: Sequence[str], fold: int, folds: int, val_fraction: float, seed: int
) -> dict[str, str]:
    """The part of each group."""
    part = dict.fromkeys(_shuffled(unique, f"{seed}")[fold::folds], "test")
    rest = _shuffled([group for group in unique if group not in part], f"{seed}/{fold}")
    size = Counter(groups)
    wanted, taken = val_fraction * sum(size[group] for group in rest), 0
    for group in rest[:-1]:  # the last one stays for training, however few there are
        part[group] = "val" if taken < wanted else "train"
        taken += size[group]
    return part | {rest[-1]: "train"}


def _shuffled(groups: Sequence[str], salt: str) -> list[str]:
    """In an order of hashes: the same with every version of every library, which NumPy does not promise."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{salt}/{group}".encode()).digest())


def write_split(path: Path, splits: Splits, groups: Mapping[str, str]) -> None:
    """Write `file,group,split` for every sample, so that the split can be read again or published."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "group", "split"])
        writer.writerows([name, groups[name], split] for split in SPLITS for name in splits[split])


def read_split(path: Path, groups: Mapping[str, str]) -> Splits:
    """Read a file that `write_split` wrote, or a published one of that form.

    Args:
        path: CSV with the columns file, group and split; a group that is not known stays empty.
        groups: Group of every sample of the data set.

    Returns:
        Names of train, val and test; samples that the file does not list are in none.

    Raises:
        UserError: Listed images are missing from the set, a split has an unknown name, a file is listed twice, or a
            group straddles two splits.
    """
    lines = read_rows(path, ("file", "group", "split"), "Give a file with the columns file,group,split.")
    if not lines:
        raise UserError(f"{path}: lists no images. Give a file with a row per image.")
    splits: Splits = {split: [] for split in SPLITS}
    part: dict[str, str] = {}
    for line in lines:
        name, split = line["file"], line["split"]
        if split not in splits:
            raise UserError(f"{path}: {name} has split {split!r}. Use train, val or test.")
        if name in part:
            raise UserError(f"{path}: {name} is listed twice. Remove one of the rows.")
        part[name] = split
        splits[split].append(name)
    if missing := [name for name in part if name not in groups]:
        raise UserError(
            f"{path}: {len(missing)} of {len(part)} images are not in the data set, {missing[0]} first. "
            "Use the set that the split was made for, complete."
        )
    _refuse_leaks(path, part, groups)
    _refuse_leaks(path, part, {line["file"]: line["group"] or line["file"] for line in lines})
    return splits


def _refuse_leaks(path: Path, part: Mapping[str, str], groups: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, split in part.items():
        other = first.setdefault(groups[name], name)
        if part[other] != split:
            raise UserError(
                f"{path}: {other} ({part[other]}) and {name} ({split}) are of the same examination or subject "
                f"{groups[name]!r}, which must not straddle splits. Move one of them."
            )
