"""The table of test_time.csv, and each way against 256x384 alone, paired by image: python test_time_table.py."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

from famseg.report.statistics import over_images

PLAIN = "256"


def main() -> None:
    """Prints Markdown."""
    with (Path(__file__).parent / "test_time.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    small = {row["file"] for row in sorted(rows, key=lambda row: float(row["hc_mm"]))[: len(rows) // 3]}
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    dice: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        errors[row["way"]][row["file"]] = abs(float(row["hc_error_mm"]))
        dice[row["way"]][row["file"]] = 100 * float(row["dice"])
    print(
        "| height of the input | Dice % | of the small third | absolute error of HC, mm | less than 256 alone (95 %) |"
    )
    print("|---|---:|---:|---:|---:|")
    for way, of in errors.items():
        columns = mean(dice[way].values()), mean(dice[way][name] for name in small), mean(of.values())
        print(f"| {way} | {' | '.join(f'{value:.2f}' for value in columns)} | {less(errors, way)} |")


def less(errors: dict[str, dict[str, float]], way: str) -> str:
    """Mean difference with its interval; examinations are drawn whole."""
    names = list(errors[PLAIN])
    found = over_images([errors[PLAIN][n] - errors[way][n] for n in names], [n.split("_")[0] for n in names])
    return "" if way == PLAIN else f"{found.difference:.2f} ({found.low:.2f} to {found.high:.2f})"


if __name__ == "__main__":
    main()
