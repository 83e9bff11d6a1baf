"""Joins the test images of study 03 and of this one, in this folder: python images.py. `../paired.py` compares them."""

import csv
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from gather import IMAGE  # noqa: E402
from paired import read  # noqa: E402

KEPT = [*(f"{key}_fb" for key in IMAGE), "hc_mm", "hc_error_mm"]
SETTINGS = {
    "30 epochs": ("../03_hc18/famseg_t_{}", "test.csv"),
    "120 epochs": ("famseg_t_{}", "test.csv"),
    "120 epochs, mirrored": ("famseg_t_{}", "test_flip.csv"),
    "U-Net, 120 epochs": ("unet_{}", "test.csv"),
}


def main() -> None:
    """Writes images.csv, a row per setting, seed and image."""
    group = {row["file"]: row["group"] for row in read(HERE / "../02_hc18_models/split.csv")}
    with (HERE / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setting", "seed", "group", "file", *KEPT])
        for setting, (folder, name) in SETTINGS.items():
            for seed in range(3):
                for row in read(HERE / folder.format(seed) / name):
                    writer.writerow([setting, seed, group[row["file"]], row["file"], *(row[k] for k in KEPT)])


if __name__ == "__main__":
    main()
