"""Draw what the Mamba shortcut filters and FAM's kernels: the figures of notebooks/03_network.ipynb, as files.

python docs/figures/blocks.py --run RUN --hc18 DIR

HC18: van den Heuvel et al., "Automated measurement of fetal head circumference using 2D ultrasound images", PLoS ONE
13(8), 2018; CC BY 4.0, https://zenodo.org/records/1327317.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib

FIGURES = {"mamba_figure": "mamba_filters.png", "fam_figure": "fam_kernels.png"}


def executed(notebook: Path) -> dict[str, Any]:
    """The names that a notebook's code cells define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    return names


def main() -> None:
    """Write docs/figures/mamba_filters.png and docs/figures/fam_kernels.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a run, or a checkpoint")
    parser.add_argument("--hc18", required=True, help="folder of HC18 (holds training_set/)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    os.environ |= {"FAMSEG_RUN": options.run, "FAMSEG_HC18": options.hc18}
    matplotlib.use("Agg")
    names = executed(Path(__file__).parents[2] / "notebooks" / "03_network.ipynb")
    for name, file in FIGURES.items():
        names[name].savefig(options.out / file, dpi=80, bbox_inches="tight", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
