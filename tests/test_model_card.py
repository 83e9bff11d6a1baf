"""The card of a shipped network is written from its run."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from studies import write_cell

from famseg import weights
from famseg.data.tables import read_rows
from famseg.files import write_table

SCRIPT = Path(__file__).parents[1] / "docs" / "model_cards" / "card.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of a shipped network, `tiny`."""
    folder = write_cell(tmp_path, "model=famseg_t", images=20, gpus=["A GPU"])
    rows = read_rows(folder / "test.csv", ("file",), "")
    write_table(folder / "test.csv", [row | {"missed_fb": "0.0"} for row in rows])
    data = {"classes": {"BG": 0, "FB": 2}, "size": [256, 384], "mean": 0.2, "std": 0.1}
    weights.write(
        tmp_path / "tiny.safetensors",
        {"a.weight": torch.zeros(2_000_000), "a.running_mean": torch.zeros(3)},
        json.dumps({"model": {}, "data": data, "revision": "abc123"}),
    )
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    return folder


def test_every_number_is_filled_in(run):
    names = runpy.run_path(str(SCRIPT))
    text = names["card"]("tiny", run, run, "split.csv")
    assert "{" not in text
    assert "nan" not in text.replace("pregnancy", "")
    for words in ("4.0 MB", "2.0 M\nparameters", "9 images of the public", "On the 20 test images", "abc123, A GPU"):
        assert words in text, words
    assert "No head was missed." in text
    rows = sorted(read_rows(run / "test.csv", ("file",), ""), key=lambda row: float(row["dice_fb"]))
    lines = [line for line in text.splitlines() if line.startswith(f"| {rows[0]['file']} |")]
    assert len(lines) == 1
    assert f"| {100 * float(rows[0]['dice_fb']):.1f} |" in lines[0]
    assert f"| {rows[7]['file']} |" in text
    assert f"| {rows[8]['file']} |" not in text
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    assert " \\\n    ".join(["python train.py", *overrides]) in text


@pytest.mark.parametrize("name", weights.shipped())
def test_the_card_of_a_shipped_network_is_that_of_its_file(name):
    card = (SCRIPT.parent / f"{name}.md").read_text()
    metadata = weights.read(weights.shipped()[name])[1]
    assert f"Revision {metadata['revision']}, " in card
    assert f"{weights.shipped()[name].stat().st_size / 1e6:.1f} MB" in card
    assert (SCRIPT.parent / f"{name}.png").is_file()
