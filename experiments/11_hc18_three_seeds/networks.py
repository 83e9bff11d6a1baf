"""The page's tables of means, from the files in this folder: python networks.py.

Means over the seeds, standard deviations in brackets; medians and worst images are those of each run.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean, median, stdev

HERE = Path(__file__).parent
SMALLEST = "637_HC.png"  # the head with the smallest share of its picture
GRID = 0.05  # what the pixel grid alone can give (src/famseg/metrics/jaggedness.py)
EPOCHS = (9, 19, 24, 29)  # counted from 0
PARAMETERS = {  # in millions, docs/models.md
    "BiSeNetV2": 3.3,
    "SegNeXt": 4.2,
    "MobileNetV3": 4.9,
    "FAMSeg (famseg_t)": 5.1,
    "FAMSeg (famseg_s)": 16.6,
    "U-Net": 24.4,
    "Twins": 31.9,
    "Swin": 36.7,
    "ConvNeXt": 37.0,
    "UPerNet": 37.3,
}

Row = Mapping[str, str]
Runs = Mapping[str, list[Row]]  # seed -> its rows


def main() -> None:
    """Prints three tables as Markdown, the best Dice first."""
    cells, images, epochs = (_runs(HERE / f"{name}.csv") for name in ("cells", "images", "epochs"))
    names = sorted(cells, key=lambda name: -fmean(_cell(cells[name], "dice_fb")))
    _print("", names, lambda name: _scores(name, cells[name], images[name]))
    _print("head 637_HC", names, lambda name: _smallest(images[name]))
    _print("validation mIoU", names, lambda name: _validation(epochs[name]))


def _runs(path: Path) -> Mapping[str, Runs]:
    runs: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[row["setting"]][row["seed"]].append(row)
    return runs


def _scores(name: str, cells: Runs, images: Runs) -> dict[str, str]:
    hc, jagged = (_cell(cells, key) for key in ("hc_mae_mm", "jaggedness_fb"))
    return {
        "parameters, M": str(PARAMETERS[name]),
        "Dice %": _mean(_cell(cells, "dice_fb", 100), 2),
        "small third": _mean(_cell(cells, "dice_fb_small", 100), 2),
        "worst image": _mean((100 * min(_image(run, "dice_fb")) for run in images.values()), 1),
        "HD95 mm": _mean(_cell(cells, "hd95_mm_fb"), 2),
        "HC error mm; median": f"{_mean(hc, 2)}; {fmean(median(_errors(run)) for run in images.values()):.2f}",
        "jaggedness; median": f"{_mean(jagged, 4)}; "
        f"{fmean(median(_image(run, 'jaggedness_fb')) for run in images.values()):.4f}",
        "missed": f"{sum(sum(_image(run, 'missed_fb')) for run in images.values()):.0f}",
    }


def _smallest(images: Runs) -> dict[str, str]:
    rest = {seed: [row for row in run if row["file"] != SMALLEST] for seed, run in images.items()}
    head = [row for run in images.values() for row in run if row["file"] == SMALLEST]
    return {
        "Dice %": ", ".join(f"{100 * score:.1f}" for score in _image(head, "dice_fb")),
        "error of HC, mm": ", ".join(f"{float(row['hc_error_mm']):+.1f}" for row in head),
        "HC error of the other 153": _mean((fmean(_errors(run)) for run in rest.values()), 2),
        "heads with more than 10 mm": _counts((_errors(run) for run in images.values()), 10),
        "with jaggedness above 0.05": _counts((_image(run, "jaggedness_fb") for run in images.values()), GRID),
    }


def _validation(epochs: Runs) -> dict[str, str]:
    scores = {
        epoch: [100 * float(row["val/miou"]) for run in epochs.values() for row in run if row["epoch"] == str(epoch)]
        for epoch in EPOCHS
    }
    return {f"epoch {epoch + 1}": _mean(of_epoch, 2) for epoch, of_epoch in scores.items()}


def _cell(cells: Runs, key: str, times: float = 1) -> list[float]:
    return [times * float(row[key]) for run in cells.values() for row in run]


def _image(rows: Iterable[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows]


def _errors(rows: Iterable[Row]) -> list[float]:
    return [abs(error) for error in _image(rows, "hc_error_mm")]


def _counts(runs: Iterable[Iterable[float]], limit: float) -> str:
    return ", ".join(str(sum(value > limit for value in run)) for run in runs)


def _mean(values: Iterable[float], digits: int) -> str:
    of_seeds = list(values)
    return f"{fmean(of_seeds):.{digits}f} ({stdev(of_seeds):.{digits}f})"


def _print(title: str, names: Iterable[str], columns: Callable[[str], Mapping[str, str]]) -> None:
    table = {name: columns(name) for name in names}
    heads = [title, *next(iter(table.values()))]
    print(f"\n| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1), sep="\n")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(row.values())} |")


if __name__ == "__main__":
    main()
