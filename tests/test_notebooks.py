"""Every notebook runs from its first to its last cell. Cells are executed in this process: no kernel is needed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest
from studies import write_cell

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def run(path):
    """Execute the code cells in one namespace, which is returned."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    return names


@pytest.fixture
def figures(monkeypatch):
    """Where `plt.show` would open a window, the figures are kept."""
    shown = []
    matplotlib.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    yield shown
    plt.close("all")


def test_there_are_notebooks_and_no_stored_outputs():
    assert [path.name for path in NOTEBOOKS][:2] == ["01_data.ipynb", "02_results.ipynb"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), f"{path.name}: clear the outputs before committing"


def test_data_notebook_shows_pictures_and_finds_the_planted_leak(figures):
    names = run(NOTEBOOKS[0])
    assert len(figures) == 2
    assert names["found"].leaks == []
    (leak,) = names["leaks"]
    assert {leak.split, leak.other_split} == {"train", "test"}


def test_results_notebook_draws_the_tables_of_a_study(figures, tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        for optimizer, quality in (("sgd", 0.8), ("adamw", 0.95)):
            write_cell(tmp_path, f"optimizer={optimizer}", "switch=none", seed=seed, quality=quality, images=20)
    write_cell(tmp_path, "optimizer=adam", "switch=none", state="failed")
    monkeypatch.setenv("FAMSEG_STUDY", str(tmp_path))
    displayed = []
    display = SimpleNamespace(display=displayed.append, Markdown=str)  # no kernel, no IPython
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names = run(NOTEBOOKS[1])
    assert [table.key for table in names["study"].tables] == ["optimizers", "optimizers-further", "sizes-fb", "cost"]
    assert displayed[0].startswith("## Table 2. Optimizer and decay")
    assert len(figures) == 3  # loss, validation, image by image
    printed = capsys.readouterr().out
    assert "4 of 5 cells, 3 settings" in printed
    assert "AdamW + Adadelta is better than SGD + Adadelta" in printed


@pytest.mark.slow
def test_network_notebook_draws_filters_and_kernels(figures, monkeypatch):
    monkeypatch.delenv("FAMSEG_RUN", raising=False)
    names = run(next(path for path in NOTEBOOKS if path.name == "03_network.ipynb"))
    assert len(figures) == 3
    kernels, distances = names["kernels"], names["distances"]
    assert kernels.sum(-1).allclose(kernels.new_ones(()))  # softmax
    assert 0 < distances.max() <= 1
    before, after = (names["spectrum"](maps[0])[1] for maps in (names["given"], names["given"] * 3 + 1))
    assert before.allclose(after, rtol=1e-3)  # scale and mean do not matter
