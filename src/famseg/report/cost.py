"""What every setting took: time, energy where it was recorded, money where an hour has a price."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from famseg.report.derived import LEVEL
from famseg.report.layout import Column, Row, Table
from famseg.report.records import Record
from famseg.report.settings import Setting
from famseg.study.spans import read_spans


def cost_table(settings: Sequence[Setting], names: Mapping[int, str], price: float | None) -> Table:
    """Time, speed, energy and cost of one run of each setting.

    Args:
        settings: those with finished runs are shown.
        names: id of a setting -> its name.
        price: of an hour of the device; None leaves the money out.
    """
    rows = [Row(names[id(s)], s, {}) for s in settings if s.records]
    columns = [
        Column("seconds", "minutes a run", 1 / 60, 1, -1),
        Column("train_seconds", "minutes of training", 1 / 60, 1, -1),
        Column("images_per_s", "images/s", 1, 1, 1),
    ]
    runs = [record for s in settings for record in s.records if "epochs_to_97" in record.scores]
    reached = sum(not math.isnan(record.scores["epochs_to_97"]) for record in runs)
    if reached:
        columns += [
            Column("epochs_to_97", f"epochs to Dice {LEVEL:.0%}", 1, 1, -1),
            Column("seconds_to_97", f"s to Dice {LEVEL:.0%}", 1, 1, -1),
        ]
    recorded = any(not math.isnan(s.mean("energy_wh")) for s in settings)
    columns += [Column("energy_wh", "energy Wh", 1, 1, -1)] if recorded else []
    columns += [Column("seconds", "cost a run", price / 3600, 2, -1)] if price else []
    each, hours = _hours(record for s in settings for record in s.records)
    notes = [f"All finished runs together: {hours:.2f} hours of one device."]
    if hours < 0.99 * each:
        notes.append(f"Some ran side by side on one device: the minutes above add up to {each:.2f} hours.")
    if price:
        notes.append(f"At {price:g} an hour: {hours * price:.2f} in all.")
    notes.append(
        "A run's minutes are those of its process, a resumed run's at least those of its training epochs; images/s: "
        "the median of the epochs but the first."
    )
    if reached:
        left_out = (
            f"; {len(runs) - reached} of {len(runs)} runs never had it and are left out" if reached < len(runs) else ""
        )
        notes.append(
            f"To Dice {LEVEL:.0%}: training until validation, mean of the foreground classes, first had it{left_out}. "
            "Seconds of runs that shared a device are no comparison with others."
        )
    if recorded:
        notes.append(
            "Energy: what the GPU took in the training epochs and their validation, of all runs that shared it."
        )
    else:
        notes.append("Energy: not available, no readings were recorded.")
    return Table("cost", "Time and cost", rows, columns, notes)


def _hours(records: Iterable[Record]) -> tuple[float, float]:
    """Hours of all runs, added up, and of their devices, which runs side by side need once.

    A run's device is known where a sweep started it, by its machine and the GPUs that it was given.
    """
    each = 0.0
    busy: dict[Hashable, list[tuple[float, float]]] = {}
    for record in records:
        if math.isnan(record.seconds):
            continue
        each += record.seconds
        spans, status = read_spans(record.cell.folder), record.cell.status
        end = float(status.get("updated") or 0)
        device = (status.get("host"), spans[-1].gpus) if spans else record.cell.name
        busy.setdefault(device, []).append((end - record.seconds, end))
    return each / 3600, sum(map(_covered, busy.values())) / 3600


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
