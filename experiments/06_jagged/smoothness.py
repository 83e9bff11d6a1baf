"""Jaggedness image by image, beside study 03's networks: python smoothness.py; draws jaggedness.png.

The mean over images is ruled by a handful; the median and the count of images are not.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, median

from matplotlib.figure import Figure

HERE = Path(__file__).parent
OURS = {"FAMSeg": "FAM", "Bilinear instead of FAM": "bilinear", "Nearest instead of FAM": "nearest"}
EARLIER = {"FAMSeg-T, study 03": "famseg_t", "U-Net, study 03": "unet", "SegNeXt-T, study 03": "segnext_t"}  # 256x384
COLOURS = ("#2563a8", "#0e9aa7", "#d98200", "#9ca3af", "#7b3fa0", "#c2458b")
GRID = 0.05  # what the pixel grid alone can give (src/famseg/metrics/jaggedness.py)
WORST = 2  # images that the last mean leaves out


def main() -> None:
    """Prints Markdown and draws."""
    runs: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))  # name, seed, file
    for name, seed, file, value in _values():
        runs[name][seed][file] = value
    mean = {
        name: {file: fmean(run[file] for run in seeds.values()) for file in seeds["0"]} for name, seeds in runs.items()
    }
    print("| | mean | without the two worst | median | above 0.05, of each seed | less jagged with FAM |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, images in mean.items():
        above = ", ".join(str(sum(value > GRID for value in run.values())) for run in runs[name].values())
        rest = fmean(sorted(images.values())[:-WORST])
        less = sum(mean["FAM"][file] < value for file, value in images.items())
        numbers = " | ".join(f"{value:.4f}" for value in (fmean(images.values()), rest, median(images.values())))
        print(f"| {name} | {numbers} | {above} | {f'{less} of {len(images)}' if name != 'FAM' else ''} |")
    _draw(mean)


def _values() -> Iterator[tuple[str, str, str, float]]:
    for row in _rows(HERE / "images.csv"):
        yield OURS[row["setting"]], row["seed"], row["file"], float(row["jaggedness_fb"])
    for name, network in EARLIER.items():
        for folder in sorted((HERE.parent / "03_hc18").glob(f"{network}_[0-9]")):
            for row in _rows(folder / "test.csv"):
                yield name, folder.name[-1], row["file"], float(row["jaggedness_fb"])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _draw(mean: Mapping[str, Mapping[str, float]]) -> None:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, images) in zip(COLOURS, mean.items(), strict=True):
        style = "--" if "study" in name else "-"
        axes.plot(range(1, len(images) + 1), sorted(images.values()), style, color=colour, label=name)
    axes.axhline(GRID, color="#1f2937", linewidth=0.8)
    axes.set(yscale="log", xlabel="test images, the smoothest first", ylabel="jaggedness, px")
    axes.text(2, GRID * 1.08, "below: the pixel grid alone can give it", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.95), fontsize=9)
    figure.savefig(HERE / "jaggedness.png", dpi=110)


if __name__ == "__main__":
    main()
