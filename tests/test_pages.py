"""What the pages of docs/ show as code runs and does what they say."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from famseg.checkpoint import load_predictor
from famseg.cli import main
from famseg.data.phantom import Phantom


def blocks(page):
    """(language, text) of the page's blocks."""
    return re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def page(repository):
    return blocks(repository / "docs" / "own_code.md")


def written(page, folder):
    for _, text in page:
        if name := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def test_own_code_from_python(page):
    *_, (_, text) = page
    names = {}
    exec(text, names)
    assert names["logits"].shape == (2, 3, 50, 70)
    assert names["larger"].shape == (2, 16, 48, 72)
    assert names["mask"].shape == (540, 800)
    assert isinstance(names["trained"], torch.nn.Module)


def test_own_data_and_loss(page, tmp_path, monkeypatch):
    written(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    source = mine.Discs(5)
    assert [sample.mask.max() for sample in source] == [2] * 5
    logits = torch.randn(1, 3, 8, 8)
    assert mine.Focal(0.0)(logits, logits.argmax(1)) > mine.Focal(2.0)(logits, logits.argmax(1)) > 0


@pytest.mark.slow
def test_commands_with_own_code(page, repository, tmp_path):
    written(page, tmp_path)
    (commands,) = (text for language, text in page if language == "bash")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "FAMSEG_MODELS": "mine"}
    small = [f"runs={tmp_path}/runs", "data.size=[32,48]", "trainer=cpu", "trainer.progress=false"]

    def run(*command):
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    _, train, evaluate, predict = re.sub(r"\\\n\s*", "", commands).splitlines()
    train = train.replace("--config-dir own", f"--config-dir {tmp_path}/own")
    assert "IoU" in run(sys.executable, *train.split()[1:], *small)
    (folder,) = tmp_path.glob("runs/default/*")
    assert (folder / "test_scores.csv").exists()
    evaluate = evaluate.replace("runs/default/TIME", str(folder))
    run(sys.executable, *evaluate.split()[1:], f"runs={tmp_path}/runs")

    cv2.imwrite(str(tmp_path / "image.png"), Phantom(1, (96, 128))[0].image)
    predict = predict.replace("IMAGE", f"{tmp_path}/image.png").replace("runs/default/TIME", str(folder))
    run(sys.executable, "-m", "famseg.cli", *predict.replace("--out results", f"--out {tmp_path}/out").split()[1:])
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "image.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (96, 128)
    assert set(np.unique(mask)) <= {0, 2}


@pytest.mark.slow
def test_an_exported_network_without_famseg(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *_, (_, text) = blocks(repository / "docs" / "predict.md")
    main(["export", "famseg-t-hc18", "--format", "onnx", "--size", "256", "384", "--out", "famseg.onnx"])
    image = Phantom(1, (540, 800), planes={"head": 1.0})[0].image
    cv2.imwrite("scan.png", image)
    names = {}
    exec(text, names)
    expected = load_predictor("famseg-t-hc18").mask(image)
    assert names["mask"].shape == expected.shape
    assert (expected == 2).mean() > 0.05
    assert (names["mask"] != expected).mean() < 1e-5  # ties
