"""The card of a shipped network from its run: python docs/model_cards/card.py famseg-t-hc18 RUN [--flip EVAL].

RUN is the folder that train.py left (its checkpoint may be gone), EVAL that of `eval.py run=RUN tta=flip`. Writes
NAME.md, and NAME.png from RUN's sheet of test images, beside this file; every number is read from CSV files.
"""

import argparse
import csv
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from famseg import checkpoint, weights
from famseg.metrics.summary import summarize

Rows = Sequence[Mapping[str, str]]

TEXT = """# {name}

FAMSeg trained on fetal heads of HC18, in the package: {megabytes:.1f} MB, weights in half precision, {parameters:.1f} M
parameters. It marks the head (class FB) in a standard-plane ultrasound image; head circumference (HC) is measured from
the mark.

```bash
famseg predict scans/ --checkpoint {name} --spacing 0.12 --out results
python eval.py run={name} data=hc18 data.root=data/hc18 data.split_file={split}
python train.py init_from={name} model=famseg_t data=folder data.root=DIR      # start from it
```

```python
from famseg.models import FAMSeg

network = FAMSeg.from_pretrained("{name}")
```

**Research use only. Not a medical device.** Nobody has approved it for care.

## Training

- Data: {train} images of the public HC18 set, and {val} that chose the best epoch; nothing else, no pretrained weights.
  {images} of HC18's 999 labelled images were at hand, divided by examination (`{split}`).
- Images are letterboxed to {height}x{width}, less {mean:.4f}, over {std:.4f}, with values from 0 to 1.
- Revision {revision}, {device}, {minutes:.1f} minutes for {epochs} epochs{beside}:

```bash
{command}
```

## Results

On the {test} test images (the test examinations were in neither training nor validation), in their original size:

{scores}

By head circumference, thirds of the test images:

{sizes}

The weights of this file are rounded to half precision; the plain rows are of the run before. `eval.py` as above scores
the file itself.

## Where it fails

{missed} The worst of the test images by Dice:

{worst}

![Best, median and worst test images; prediction green, truth white]({name}.png)

Of {flagged} test images the measurement carries a flag ([docs/predict.md](../predict.md)). {uncaught} of the {number}
images above carry none: no look at the mask alone tells that they are wrong.

## Intended use and limits

- For: methods research, teaching, a start for training on one's own images, a first look at a dataset of heads.
- Not for: diagnosis, dating or growth of a real pregnancy, planes other than the standard one of the head, femora (it
  knows two classes, background and head), animals, video.
- HC18 is of one department in the Netherlands and two types of scanner. Other devices, presets, populations and
  malformations were not tested. Expect it to be worse there, and test it before use.
- HC18 names examinations, not women: one woman's examinations may lie on both sides of the split, so that the results
  may be a little too good.
- It was measured on one split. The official test set of the HC18 challenge, whose labels are not public, was not used.
- Its probabilities are not calibrated.

## Licence

Code and weights: Apache 2.0. The weights were computed from HC18: T. L. A. van den Heuvel, D. de Bruijn, C. L. de Korte
and B. van Ginneken, Automated measurement of fetal head circumference using 2D ultrasound images, PLoS ONE 13(8):
e0200412, 2018; data at doi.org/10.5281/zenodo.1327317 under CC BY 4.0 (creativecommons.org/licenses/by/4.0). Name them
when you use the weights. No image of HC18 is in the package.

Written by `python docs/model_cards/card.py`; numbers by the run's CSV files.
"""

SCORES: Sequence[tuple[str, str, Callable[[Mapping[str, str]], float]]] = (
    ("Dice %", "{:.2f}", lambda row: 100 * float(row["dice_fb"])),
    ("absolute error of HC, mm", "{:.2f}", lambda row: abs(float(row["hc_error_mm"] or "nan"))),
    ("HD95, mm", "{:.2f}", lambda row: float(row["hd95_mm_fb"])),
    ("jaggedness (0: smooth)", "{:.4f}", lambda row: float(row["jaggedness_fb"] or "nan")),
)
WORST = 8


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    parser.add_argument("--flip", type=Path, help="folder of an evaluation with tta=flip")
    parser.add_argument("--split", default="experiments/02_hc18_models/split.csv", help="of the run, as published")
    parser.add_argument("--beside", type=int, default=0, help="other runs that shared the GPU (0)")
    options = parser.parse_args()
    folder = Path(__file__).parent
    (folder / f"{options.name}.md").write_text(
        card(options.name, options.run, options.flip, options.split, options.beside)
    )
    shutil.copy(options.run / "overlays" / "test_extremes.png", folder / f"{options.name}.png")


def card(name: str, run: Path, flip: Path | None, split: str, beside: int = 0) -> str:
    """The card's text."""
    path = checkpoint.resolve(name)
    state, metadata = weights.read(path)
    config, environment = (yaml.safe_load((run / file).read_text()) for file in ("config.yaml", "environment.json"))
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    divided, rows = read(run / "split.csv"), read(run / "test.csv")
    groups = {row["file"]: row["group"] for row in divided}
    counts = Counter(row["split"] for row in divided)
    ranked = sorted(rows, key=lambda row: float(row["dice_fb"]))[:WORST]
    tests = {"plain": rows} | ({"with the mirrored image (`tta=flip`)": read(flip / "test.csv")} if flip else {})
    missed = sum(float(row["missed_fb"]) for row in rows)
    return TEXT.format(
        name=name,
        megabytes=path.stat().st_size / 1e6,
        parameters=sum(v.numel() for k, v in state.items() if v.is_floating_point() and "running_" not in k) / 1e6,
        split=split,
        **{part: counts[part] for part in ("train", "val", "test")},
        images=len(divided),
        height=metadata["data"]["size"][0],
        width=metadata["data"]["size"][1],
        mean=metadata["data"]["mean"],
        std=metadata["data"]["std"],
        revision=metadata["revision"],
        device=" and ".join(sorted(set(environment["gpus"]))) or "CPU",
        minutes=sum(float(row["train_seconds"]) for row in read(run / "timing.csv")) / 60,
        epochs=config["trainer"]["max_epochs"],
        beside=f" with {beside} other runs on the GPU" if beside else "",
        command=" \\\n    ".join(["python train.py", *(f"'{each}'" if "[" in each else each for each in overrides)]),
        scores=scores(tests, groups),
        sizes=by_size(rows),
        missed="No head was missed." if not missed else f"{missed:.0f} heads were missed.",
        worst=table(
            ["image", "Dice %", "error of HC, mm", "true HC, mm", "flags"],
            [[row["file"], *numbers(row), row["flags_fb"].replace(";", ",") or "none"] for row in ranked],
        ),
        flagged=sum(bool(row["flags_fb"]) for row in rows),
        uncaught=sum(not row["flags_fb"] for row in ranked),
        number=len(ranked),
    )


def numbers(row: Mapping[str, str]) -> list[str]:
    """Dice, error and length of an image."""
    error = float(row["hc_error_mm"] or "nan")
    return [f"{100 * float(row['dice_fb']):.1f}", f"{error:+.1f}", f"{float(row['hc_mm']):.0f}"]


def scores(tests: Mapping[str, Rows], groups: Mapping[str, str]) -> str:
    """Mean with its interval, and median, of every score and test."""
    lines = []
    for title, form, value in SCORES:
        for test, rows in tests.items():
            found = summarize([value(row) for row in rows], [groups[row["file"]] for row in rows])
            mean, low, high, median = (form.format(x) for x in (found.mean, found.low, found.high, found.median))
            lines.append([title, test, mean, f"{low} to {high}", median])
    return table(["", "", "mean over images", "95 % interval", "median"], lines)


def by_size(rows: Rows) -> str:
    """Dice and error of HC in thirds of the images."""
    ordered = sorted(rows, key=lambda row: float(row["hc_mm"]))
    lines = []
    for part in np.array_split(np.arange(len(ordered)), 3):
        third = [ordered[i] for i in part]
        ends = f"{float(third[0]['hc_mm']):.0f} to {float(third[-1]['hc_mm']):.0f} mm"
        means = [form.format(np.nanmean([value(row) for row in third])) for _, form, value in SCORES[:2]]
        lines.append([ends, str(len(third)), *means])
    return table(["HC", "images", "Dice %", "absolute error of HC, mm"], lines)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
