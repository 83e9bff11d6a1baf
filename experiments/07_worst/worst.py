"""Which images are worst, and whether they are the same for every change: python worst.py.

An image's Dice and error of HC are means over a setting's seeds.
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

SHOWN = 10
SHORT = {  # what the tables call them
    "trainer.max_epochs=90": "90 epochs",
    "model=famseg_s": "FAMSeg-S",
    "callbacks=ema": "moving average",
    "loss.dice_weight=3": "Dice weight 3",
    "data.augment.ultrasound=0.25": "scanner-like",
    "data.augment.rotate=45, data.augment.scale=0.35, data.augment.gamma=50, data.augment.ultrasound=0.25": "strong",
    "data.size=[384, 576]": "384x576",
    "callbacks=ema, data.size=[384, 576]": "384x576, moving average",
}


def main() -> None:
    """Prints Markdown: the worst of the baseline, then how many of them are among the worst of each other setting."""
    dice: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    error: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    facts: dict[str, dict[str, str]] = {}
    flags: dict[str, int] = defaultdict(int)
    with (Path(__file__).parent / "images.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = SHORT.get(row["setting"], row["setting"])
            dice[name][row["file"]].append(100 * float(row["dice_fb"]))
            error[name][row["file"]].append(float(row["hc_error_mm"]))
            facts[row["file"]] = row
            flags[row["file"]] += name == "baseline" and bool(row["flags_fb"])
    worst = {name: _lowest(images) for name, images in dice.items()}
    print("| image | HC, mm | share of the picture, % | Dice % | after 90 epochs | error of HC, mm | after 90 epochs |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in worst["baseline"]:
        scores = (f"{fmean(dice[of][name]):.1f}" for of in ("baseline", "90 epochs"))
        errors = (f"{fmean(error[of][name]):+.1f}" for of in ("baseline", "90 epochs"))
        hc, share = float(facts[name]["hc_mm"]), 100 * float(facts[name]["size_fb"])
        print(
            f"| {name.removesuffix('HC.png').rstrip('_')} | {hc:.0f} | {share:.0f} | {' | '.join([*scores, *errors])} |"
        )
    print(f"flagged by both of the baseline's runs: {sum(flags[name] == 2 for name in worst['baseline'])}")
    for name, found in worst.items():
        both = len({*found} & {*worst["baseline"]})
        lowest = fmean(fmean(dice[name][image]) for image in worst["baseline"])
        print(f"{name}: {both} of {SHOWN} the same; Dice of the baseline's worst {SHOWN}: {lowest:.1f}")
    everywhere = set.intersection(*(set(found) for found in worst.values()))
    print(f"among the worst {SHOWN} of all {len(worst)}: {', '.join(sorted(everywhere))}")


def _lowest(images: dict[str, list[float]]) -> list[str]:
    return sorted(images, key=lambda name: fmean(images[name]))[:SHOWN]


if __name__ == "__main__":
    main()
