"""The tables that a study's settings make: the paper's three where they are its cells, else one by what differs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import yaml

from famseg.report.layout import Column, Row, Table
from famseg.report.settings import BASELINE, Setting, over

_NAMES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "adadelta": "Adadelta",
    "sgd_eq6": "SGD without momentum",
    "sgd_tuned": "SGD at rates of its own",
    "sgd_at_150": "then SGD",
    "adadelta_at_150": "then Adadelta",
}
# Value of a key of `model` that is the whole network, and what is said of another value.
_PARTS: Mapping[str, tuple[Any, str]] = {
    "mamba": (True, "no mamba"),
    "fusion": ("full", "no fusion"),
    "upsample": ("fam", "{} instead of FAM"),
    "strip_scan": ("independent", "{} strips"),
}
_NO_BLOCKS = "no mamba, second reading (m = 0)"
_FIRST_CLASSES = ("bg", "fl", "fb")

Profile = Mapping[str, str]


@cache
def paper() -> Mapping[str, Any]:
    """The paper's numbers, `paper.yaml`."""
    content: Mapping[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("paper.yaml").read_text("utf-8"))
    return content


def build_tables(settings: Sequence[Setting]) -> list[Table]:
    """Every table of a study, each followed by one of its further scores.

    Settings that agree in all but the model make Table 1, in all but optimizer, decay and switch Table 2, in all but
    the parts of the network Table 3. What fits into none is compared by the settings that differ.
    """
    tables: list[Table] = []
    for rest, members in _partition(settings, _rest).items():
        ablation = list(_ablation(members))
        models = [table for table in _models(members) if not any(_settings(table) <= _settings(a) for a in ablation)]
        suffix = f" ({rest})" if rest else ""
        tables += [replace(t, title=f"{t.title}{suffix}") for t in (*models, *_optimizers(members), *ablation)]
    placed = {key for table in tables for key in _settings(table)}
    left = [setting for setting in settings if id(setting) not in placed]
    own = next((s for s in left if s.name == BASELINE), None)
    tables += [_table("settings", "Settings", [Row(s.name, s, {}) for s in left], own)] if left else []
    return [part for table in _numbered(tables) for part in (table, further_scores(table))]


def further_scores(table: Table) -> Table:
    """The scores beside IoU of a table's rows that have runs: overlap, boundaries, millimetres, speed."""
    rows = [row for row in table.rows if row.setting is not None]
    classes = [name for name in _classes(rows) if name != "bg"]
    label = {name: f" {name.upper()}" if len(classes) > 1 else "" for name in classes}
    columns = [Column(f"dice_{name}", f"Dice{label[name]} %", 100, 2) for name in classes]
    columns += [Column(f"hd95_mm_{name}", f"HD95{label[name]} mm", better=-1) for name in classes]
    columns += [Column(f"{x}_mae_mm", f"{x.upper()} error mm", better=-1) for x in ("hc", "fl")]
    columns += [Column("hc_median_mm", "HC error median mm", better=-1)]
    columns += [Column(f"jaggedness_{name}", f"jaggedness{label[name]}", 1, 4, -1) for name in classes]
    columns += [Column(f"missed_{name}", f"missed{label[name]}", 1, 1, -1) for name in classes]
    columns += [Column(f"false_alarm_{name}", f"false alarms{label[name]}", 1, 1, -1) for name in classes]
    columns += [Column("images_per_s", "images/s", 1, 1, 1)]
    present = [column for column in columns if _present(column, rows)]
    notes = (
        "Dice counts the pixels of the whole test split; HD95, the errors of HC and FL (mean absolute; of HC the "
        "median, too) and jaggedness (0: smooth) are means over its images. A missed object costs HD95 the picture's "
        "diagonal; it has no error in mm and no jaggedness: read these beside the number of missed objects. A false "
        "alarm (the class in an image that does not show it) costs HD95 the same. images/s: in training.",
    )
    return Table(f"{table.key}-further", f"{table.title}: further scores", rows, present, notes)


def profile(setting: Setting) -> Profile:
    """What the paper's tables vary: options of groups, `rates` after a switch, and `part`, taken out of the network."""
    groups = {group: setting.choices.get(group, "none") for group in ("model", "optimizer", "scheduler", "switch")}
    rates = setting.differs.get("switch.lr")
    return groups | {"part": _part(setting), "rates": f" ({rates})" if rates else ""}


def _settings(table: Table) -> set[int]:
    return {id(row.setting) for row in table.rows if row.setting is not None}


def _part(setting: Setting) -> str:
    model = setting.cells[0].config.get("model", {})
    parts = [text.format(model[key]) for key, (whole, text) in _PARTS.items() if key in model and model[key] != whole]
    blocks = model.get("bottle_blocks")
    if blocks and not any(blocks):
        parts.append(_NO_BLOCKS)
    return ", ".join(parts) or "none"


def _rest(setting: Setting) -> str:
    ours = {
        "model",
        "optimizer",
        "scheduler",
        "switch",
        "model.bottle_blocks",
        "switch.lr",
        *(f"model.{key}" for key in _PARTS),
    }
    return ", ".join(f"{key}={value}" for key, value in setting.differs.items() if key not in ours)


def _models(settings: Sequence[Setting]) -> Iterable[Table]:
    whole = [setting for setting in settings if profile(setting)["part"] == "none"]
    for training, members in _partition(whole, lambda s: _training_name(profile(s))).items():
        fitted = [line for line in paper()["models"]["rows"] if any(_fits(profile(s), line["option"]) for s in members)]
        if len(fitted) > 1:  # sizes of one network are no comparison of models
            yield _paper_table("models", members, lambda p: p["model"], f"trained with {training}")


def _optimizers(settings: Sequence[Setting]) -> Iterable[Table]:
    for network, members in _partition(settings, lambda s: _network_name(profile(s))).items():
        if len({_training_name(profile(s)) for s in members}) > 1:
            yield _paper_table("optimizers", members, _training_name, network)


def _ablation(settings: Sequence[Setting]) -> Iterable[Table]:
    for training, members in _partition(settings, lambda s: _training_name(profile(s))).items():
        famseg = [s for s in members if profile(s)["model"].startswith("famseg")]
        reference = [s for s in members if profile(s)["model"].startswith("segnext")]
        if any(profile(s)["part"] != "none" for s in famseg):
            name = _part_name if len({profile(s)["model"] for s in famseg}) == 1 else _network_name
            yield _paper_table("ablation", famseg + reference, name, f"trained with {training}")


def _training_name(options: Profile) -> str:
    optimizer, scheduler, switch = (
        _NAMES.get(options[group], options[group]) for group in ("optimizer", "scheduler", "switch")
    )
    if options["switch"] == "none":
        return f"{optimizer} + {scheduler}"
    return f"{optimizer} + {scheduler}, {switch}{options['rates']}"


def _network_name(options: Profile) -> str:
    return options["model"] + (f", {options['part']}" if options["part"] != "none" else "")


def _part_name(options: Profile) -> str:
    return options["model"] if options["part"] == "none" else options["part"][:1].upper() + options["part"][1:]


def _paper_table(key: str, settings: Sequence[Setting], name: Callable[[Profile], str], same: str) -> Table:
    content = paper()[key]
    rows: list[Row] = []
    for line in content["rows"]:
        option = content.get("option", {}) | line["option"]
        scores = dict(zip(paper()["columns"], line["scores"], strict=True)) if "scores" in line else {}
        fitting = [s for s in settings if _fits(profile(s), option)]
        several = len(fitting) > 1
        rows += [Row(f"{line['name']} ({name(profile(s))})" if several else line["name"], s, scores) for s in fitting]
        rows += [] if fitting or not scores else [Row(line["name"], None, scores)]
        own = fitting[:1]
    placed = {id(row.setting) for row in rows}
    rows += [Row(name(profile(s)), s, {}) for s in settings if id(s) not in placed]
    table = _table(key, content["title"], rows, own[0] if own else None)
    return replace(table, notes=[f"Ours: {same}.", *table.notes])


def _fits(options: Profile, patterns: Mapping[str, str]) -> bool:
    return all(fnmatchcase(options[group], pattern) for group, pattern in patterns.items())


def _table(key: str, title: str, rows: Sequence[Row], own: Setting | None = None) -> Table:
    finished = [row for row in rows if row.finished]
    classes = _classes(finished)
    columns: list[Column] = []
    for score, name in [*((f"iou_{c}", f"IoU {c.upper()}") for c in classes), ("miou", "mIoU")]:
        beside = any(score in row.paper for row in rows)
        columns += [Column(score, name, source="paper")] if beside else []
        columns.append(Column(score, name, 100, source="ours" if beside else ""))
    best = max(finished, key=lambda row: row.setting.mean("miou") if row.setting else -math.inf, default=None)
    own_row = next((row for row in finished if row.setting is own), None)
    reference = (own_row or best) if len(finished) > 1 else None
    repeats = over(row.setting for row in finished if row.setting)
    notes = _notes(rows, classes, repeats)
    if reference is not None and repeats != "seeds":
        notes.append(
            "Networks of different folds share training images and are not independent: nothing is claimed over "
            f"{repeats}. Comparisons are over the test images of all folds, each with the networks of its own fold."
        )
    if reference is not None and own_row is None:
        notes.append(f"The others are compared with the best, {reference.name}: p values are corrected for all pairs.")
    return Table(key, title, rows, columns, notes, reference, own_row is None)


def _notes(rows: Sequence[Row], classes: Sequence[str], repeats: str) -> list[str]:
    notes = [
        f"IoU in percent, mean ± standard deviation over {repeats}; best bold, second best underlined, by the mean."
    ]
    if any(row.paper for row in rows):
        notes.append(str(paper()["note"]))
        lacking = [name.upper() for name in _FIRST_CLASSES if name not in classes]
        if lacking and classes:
            notes.append(
                f"This data has no {' and no '.join(lacking)}: our mIoU is the mean of the classes shown, the paper's "
                "of three."
            )
    return notes


def _classes(rows: Sequence[Row]) -> list[str]:
    """Classes that have an IoU anywhere, the paper's first."""
    scores = dict.fromkeys(
        name for row in rows if row.setting for record in row.setting.records for name in record.scores
    )
    found = [name.removeprefix("iou_") for name in scores if name.startswith("iou_")]
    return sorted(found, key=lambda name: _FIRST_CLASSES.index(name) if name in _FIRST_CLASSES else len(found) + 3)


def _present(column: Column, rows: Sequence[Row]) -> bool:
    return any(row.setting and not math.isnan(row.setting.mean(column.score)) for row in rows)


def _partition(settings: Iterable[Setting], key: Callable[[Setting], str]) -> dict[str, list[Setting]]:
    parts: dict[str, list[Setting]] = {}
    for setting in settings:
        parts.setdefault(key(setting), []).append(setting)
    return parts


def _numbered(tables: Sequence[Table]) -> list[Table]:
    """Keys that are not the same twice."""
    counts: dict[str, int] = {}
    result = []
    for table in tables:
        counts[table.key] = counts.get(table.key, 0) + 1
        suffix = f"-{counts[table.key]}" if counts[table.key] > 1 else ""
        result.append(replace(table, key=f"{table.key}{suffix}"))
    return result
