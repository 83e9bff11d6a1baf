"""Which sample is for training, validation and test: by group, from a seed or from a published file."""

import csv
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from famseg.data.tables import read_rows
from famseg.errors import UserError
from famseg.files import write_atomically

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
    traits: Sequence[tuple[float, float]] | None = None,
) -> Splits:
    """Seeded k-fold split in which no group straddles two parts.

    Args:
        names: One name per sample.
        groups: One group per sample.
        fold: The fold that is tested, 0 to `folds - 1`; "all": every sample is tested, nothing is trained on.
        folds: Number of folds.
        val_fraction: Part of what is not tested that is used for validation.
        seed: The groups are dealt to the folds in an order that follows from it.
        traits: Two numbers per sample, such as pixel size and object size, which then are spread evenly over folds,
            training and validation; nan where unknown. None: chance alone.

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
    if traits is None:
        part = _deal(unique, groups, fold, folds, val_fraction, seed)
    else:
        part = _deal_evenly(_in_order(groups, traits, folds), fold, folds, val_fraction, seed)
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


def _deal_evenly(ordered: Sequence[str], fold: int, folds: int, val_fraction: float, seed: int) -> dict[str, str]:
    """The part of each group: of neighbours, every fold gets one, and so does validation of what is left."""
    blocks = [ordered[start : start + folds] for start in range(0, len(ordered), folds)]
    test = {_shuffled(block, f"{seed}")[fold] for block in blocks if len(block) > fold}
    rest = [group for group in ordered if group not in test]
    start = int(hashlib.sha256(f"{seed}/{fold}".encode()).hexdigest(), 16) % 1000 / 1000
    steps = [int(start + i * val_fraction) for i in range(len(rest) + 1)]
    val = {group for group, before, after in zip(rest, steps, steps[1:], strict=False) if after > before} or {rest[0]}
    val -= {rest[-1]} if len(val) == len(rest) else set()
    return dict.fromkeys(rest, "train") | dict.fromkeys(val, "val") | dict.fromkeys(test, "test")


def _in_order(groups: Sequence[str], traits: Sequence[tuple[float, float]], folds: int) -> list[str]:
    """Groups such that neighbours are alike: by classes of the first trait, then by the second."""
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for group, pair in zip(groups, traits, strict=True):
        values[group].append(pair)
    first, second = ({group: _mean([pair[i] for pair in pairs]) for group, pairs in values.items()} for i in (0, 1))
    classes = min(3, max(1, len(values) // (3 * folds)))  # enough groups in each to be dealt evenly by the second
    by_first = sorted(values, key=lambda group: (first[group], group))
    of_class = {group: classes * place // len(by_first) for place, group in enumerate(by_first)}
    # Up in one class and down in the next, so that neighbours across a border are alike too.
    return sorted(values, key=lambda group: (of_class[group], second[group] * (-1) ** of_class[group], group))


def _mean(values: Sequence[float]) -> float:
    """Of the known values; endless when none is known, which sorts those last."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.inf


def _shuffled(groups: Sequence[str], salt: str) -> list[str]:
    """In an order of hashes: the same with every version of every library, which NumPy does not promise."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{salt}/{group}".encode()).digest())


def thin_out(splits: Splits, groups: Mapping[str, str], images: int) -> Splits:
    """At most so many images, each split's share of them, by whole groups; a split that has images keeps a group.

    The same images whatever else changes, and a smaller number is part of a larger one.

    Args:
        splits: Names of train, val and test.
        groups: Group of every sample.
        images: Of all splits together.

    Raises:
        UserError: `images` is not positive.
    """
    if images < 1:
        raise UserError(f"data.images={images}: give at least 1, or null for all.")
    share = images / max(1, sum(len(names) for names in splits.values()))
    return {
        split: names if share >= 1 else _first(names, groups, share * len(names)) for split, names in splits.items()
    }


def _first(names: Sequence[str], groups: Mapping[str, str], wanted: float) -> list[str]:
    size = Counter(groups[name] for name in names)
    ordered = _shuffled(list(size), "images")
    ends = accumulate(size[group] for group in ordered)
    kept = set(ordered[:1]) | {group for group, end in zip(ordered, ends, strict=True) if end <= wanted}
    return [name for name in names if groups[name] in kept]


def write_split(path: Path, splits: Splits, groups: Mapping[str, str]) -> None:
    """Write `file,group,split` for every sample, so that the split can be read again or published."""
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "group", "split"])
        writer.writerows([name, groups[name], split] for split in SPLITS for name in splits[split])


def listed(path: Path) -> dict[str, str]:
    """Split of every file that a run's split.csv lists.

    Raises:
        UserError: it is no such file.
    """
    return {row["file"]: row["split"] for row in read_rows(path, ("file", "split"), "Restore it, or move it away.")}


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
