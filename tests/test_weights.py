"""Trained networks as half-precision files and by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from famseg import checkpoint, weights
from famseg.cli import main
from famseg.configuration import composed
from famseg.errors import UserError
from famseg.evaluation.evaluate import evaluate
from famseg.models import FAMSeg, SegNeXt

ROOT = Path(__file__).parents[1]
SIZE = {"widths": [16, 16, 16, 32], "depths": [1, 1, 1, 1], "decoder_widths": [32, 16, 16, 16, 16, 16]}
SIZE |= {"head_width": 16, "context_width": 32, "level_width": 16}
DATA = {"classes": {"BG": 0, "FB": 2}, "size": [32, 48], "resize": "letterbox", "mean": 0.2, "std": 0.1}
MODEL = {"_target_": "famseg.models.FAMSeg", "num_classes": 2, **SIZE}
METADATA = {"format": 1, "version": "0", "revision": "abc", "model": MODEL, "data": DATA}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = FAMSeg(num_classes=2, **SIZE)
    for _ in range(2):  # statistics and counters of the norms that are not the initial ones
        model(torch.randn(2, 1, 64, 64))
    return model.eval()


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    weights.write(path, network.state_dict(), json.dumps(METADATA))
    return path


@pytest.fixture
def named(file, monkeypatch):
    """A folder of shipped networks that holds `tiny`."""
    monkeypatch.setattr(weights, "FOLDER", file.parent)


def test_floats_are_halved_and_counters_kept(network, file):
    state, metadata = weights.read(file)
    assert metadata == METADATA
    assert {name for name, value in state.items() if value.dtype == torch.int64} == {
        name for name in state if name.endswith("num_batches_tracked")
    }
    for name, value in network.state_dict().items():
        assert torch.equal(state[name], value.half() if value.is_floating_point() else value), name
    assert safetensors.torch.load_file(file).keys() == network.state_dict().keys()  # readable without this package


def test_the_file_predicts_what_the_network_predicts(network, file):
    predictor = checkpoint.load_predictor(file)
    image = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(predictor.model(image), network(image), rtol=0.02, atol=0.02)
    assert next(predictor.model.parameters()).dtype == torch.float32
    assert (predictor.size, predictor.mean, predictor.classes) == ((32, 48), 0.2, {"BG": 0, "FB": 2})


@pytest.mark.usefixtures("named")
def test_a_name_means_the_packages_file(file, tmp_path, monkeypatch):
    assert checkpoint.resolve("tiny") == file
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()  # what the user has is meant first
    with pytest.raises(UserError, match="tiny: holds no checkpoints"):
        checkpoint.resolve("tiny")


@pytest.mark.usefixtures("named")
def test_from_pretrained(network):
    model = FAMSeg.from_pretrained("tiny")
    assert not model.training
    with torch.no_grad():
        image = torch.randn(1, 1, 64, 64)
        torch.testing.assert_close(model(image), network(image), rtol=0.02, atol=0.02)


def test_from_pretrained_of_another_model(tmp_path):
    small = {"widths": [16, 16, 16, 32], "depths": [1, 1, 1, 1], "head_width": 32}
    model = {"_target_": "famseg.models.SegNeXt", "num_classes": 2, **small}
    state = SegNeXt(num_classes=2, **small).state_dict()
    weights.write(tmp_path / "a.safetensors", state, json.dumps(METADATA | {"model": model}))
    with pytest.raises(UserError, match="is a SegNeXt, no FAMSeg"):
        FAMSeg.from_pretrained(tmp_path / "a.safetensors")


@pytest.mark.usefixtures("named")
def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"famseg-x: no such file.*the name of a shipped network: tiny"):
        checkpoint.resolve("famseg-x")


@pytest.mark.usefixtures("named")
def test_fine_tuning_from_a_name():
    model = FAMSeg(num_classes=3, **SIZE)
    checkpoint.initialise(model, "tiny")
    assert torch.equal(
        model.encoder.stem[0][0].weight,
        weights.read(weights.FOLDER / "tiny.safetensors")[0]["encoder.stem.0.0.weight"].float(),
    )


def test_a_damaged_file(file):
    whole = file.read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"tiny\.safetensors: not a readable safetensors file"):
            checkpoint.load(file)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"famseg": "no json"}, {"famseg": "3"}])
def test_foreign_weights(tmp_path, header):
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", header)
    with pytest.raises(UserError, match="not written by `famseg export`"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [1e5, float("nan"), float("inf")])
def test_what_half_precision_cannot_hold_is_refused(tmp_path, value):
    with pytest.raises(UserError, match="weight holds values beyond"):
        weights.write(tmp_path / "a.safetensors", {"weight": torch.tensor([value])}, "{}")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("named")
def test_predict_takes_a_name(tmp_path, capsys):
    import cv2

    assert cv2.imwrite(str(tmp_path / "scan.png"), np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8))
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "scan.png"), "--checkpoint", "tiny", "--out", str(out)]) == 0
    assert (out / "masks" / "scan.png").is_file()
    assert main(["predict", str(tmp_path / "scan.png"), "--checkpoint", "other", "--out", str(tmp_path / "more")]) == 2
    assert "shipped network: tiny" in capsys.readouterr().err


def test_eval_takes_a_file(file, tmp_path):
    options = ["data=phantom", "data.n=6", "data.fold=all", "data.planes={head: 1.0}", "overlays=0", "device=cpu"]
    evaluate(composed("eval", [f"run={file}", f"output={tmp_path}", *options]), tmp_path)
    assert len((tmp_path / "test.csv").read_text().splitlines()) == 1 + 6
    with pytest.raises(UserError, match="lies in no run's folder, so its data is not known"):
        evaluate(composed("eval", [f"run={file}", f"output={tmp_path}"]), tmp_path)


@pytest.mark.parametrize("name", weights.shipped())
def test_a_shipped_network(name):
    """Is small, whole, of this version of the code, described, and not the untrained network."""
    path = weights.shipped()[name]
    assert path.stat().st_size < 12e6
    metadata = checkpoint.load(path)[checkpoint.METADATA_KEY]
    assert metadata["revision"]
    assert "+changes" not in metadata["revision"]
    assert f"--checkpoint {name}" in (ROOT / "docs" / "model_cards" / f"{name}.md").read_text()
    predictor = checkpoint.load_predictor(name)
    black = np.zeros((270, 400), np.uint8)
    assert predictor.mask(black).shape == black.shape
    state, _ = weights.read(path)
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert min(int(v) for n, v in state.items() if n.endswith("num_batches_tracked")) > 0
