"""What the last quarter did to validation mIoU, run by run, from epochs.csv: python last_quarter.py."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

BEFORE, LAST = "14", "19"  # the last epoch of AdamW where there is a switch, and of all; counted from 0


def main() -> None:
    """Prints Markdown."""
    runs: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with (Path(__file__).parent / "epochs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["val/miou"]:
                runs[row["setting"]][row["seed"]][row["epoch"]] = 100 * float(row["val/miou"])
    print("| | after 15 epochs | after 20 | gain of seeds 0, 1, 2 | mean gain | tested from epoch 15 |")
    print("|---|---:|---:|---:|---:|---:|")
    for setting, seeds in runs.items():
        gains = [epochs[LAST] - epochs[BEFORE] for epochs in seeds.values()]
        before, last = (fmean(epochs[at] for epochs in seeds.values()) for at in (BEFORE, LAST))
        early = sum(max(epochs, key=lambda at: epochs[at]) == BEFORE for epochs in seeds.values())
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"| {setting} | {before:.2f} | {last:.2f} | {each} | {fmean(gains):+.2f} | {early} |")
    for decay in ("cos", "Adadelta"):
        same = [seeds for setting, seeds in runs.items() if f"+ {decay}" in setting]
        spread = [stdev(seeds[seed][BEFORE] for seeds in same) for seed in same[0]]
        print(f"{decay}: one seed, three times the same 15 epochs: standard deviation {fmean(spread):.3f} points, mean")


if __name__ == "__main__":
    main()
