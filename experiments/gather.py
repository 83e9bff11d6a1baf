"""What a study's folder keeps of its runs: python experiments/gather.py runs/STUDY FOLDER CELL.

Writes `images.csv`, a row per run and test image, `epochs.csv`, a row per run and epoch, and `config.yaml`,
that of CELL; the others differ in what their setting says. `cells.csv` and the tables are the report's. Times are left
out: in these studies many runs share a GPU.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from famseg.report.study import load_study

IMAGE = ("dice", "hd95_mm", "assd_mm", "boundary_iou", "jaggedness", "missed", "size", "flags")  # of every class
BIOMETRY = ("hc_mm", "hc_error_mm", "fl_error_mm")


def main(runs: Path, out: Path, cell: str) -> None:
    """Gathers the finished runs of a study."""
    study = load_study(runs)
    images: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    wanted = [*(f"{key}_{label}" for label in ("fb", "fl") for key in IMAGE), *BIOMETRY]
    for setting in study.settings:
        for record in setting.records:
            run = {"setting": study.names[id(setting)], "seed": record.seed}
            group = dict(zip(record.images.names, record.images.groups, strict=True))
            for row in _rows(record.cell.folder / "test.csv"):
                kept = {key: _short(row[key]) for key in wanted if key in row}
                images.append({**run, "group": group[row["file"]], "file": row["file"], **kept})
            epochs += [{**run, **row} for row in _rows(record.cell.folder / "metrics.csv")]
    _write(out / "images.csv", images)
    _write(out / "epochs.csv", epochs)
    _keep_config(runs / cell / "config.yaml", out / "config.yaml")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _short(text: str) -> str:
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _keep_config(path: Path, out: Path) -> None:
    """The configuration with the folders of the documents in the place of those of the machine."""
    lines = path.read_text().splitlines(keepends=True)
    root = next(line.split("root:")[1].strip() for line in lines if line.strip().startswith("root:"))
    folder = next(line.split("output:")[1].strip() for line in lines if line.startswith("output:"))
    text = "".join(lines).replace(str(Path(folder).parents[1]), "runs")  # of all studies, wherever they lay
    out.write_text(text.replace(f"root: {root}", "root: data/hc18"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
