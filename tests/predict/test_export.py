"""Exported files compute what the network computes, and say of themselves what they need."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from famseg.cli import main
from famseg.errors import UserError
from famseg.export import formats
from famseg.export.write import deviation, export
from famseg.inference import Predictor
from famseg.models import FAMSeg

PLAIN = {"mamba": False, "upsample": "bilinear", "fusion": "none", "depths": (0, 0, 0, 1), "head_width": 16}
PLAIN |= {"widths": (16, 16, 16, 32), "decoder_widths": (32, 16, 16, 16, 16, 16)}


def run(checkpoint, out, *arguments):
    return main(["export", str(checkpoint), "--out", str(out), *arguments])


def picture(height, width):
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_torchscript_takes_any_size_and_knows_its_metadata(checkpoint, tmp_path, capsys):
    assert cv2.imwrite(str(tmp_path / "scan.png"), picture(90, 140))
    out = tmp_path / "new" / "famseg.pt"
    assert run(checkpoint, out, "--format", "torchscript", "--images", str(tmp_path / "scan.png")) == 0
    said = capsys.readouterr().out
    assert "famseg.pt: TorchScript, " in said
    assert " MB, any batch, height and width. Checked with torch" in said
    assert "on scan.png, allowed: 1e-04 and ties" in said
    assert said.count("masks equal") == 3
    assert [path.name for path in out.parent.iterdir()] == ["famseg.pt"]
    extra = {"famseg": ""}
    network = torch.jit.load(out, _extra_files=extra)
    metadata = json.loads(extra["famseg"])
    assert network(torch.zeros(3, 1, 40, 70)).shape == (3, 3, 40, 70)
    assert metadata["data"]["size"] == [64, 96]
    assert metadata["export"] == {"format": "torchscript", "size": None}


def test_a_fixed_size(checkpoint, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "famseg.pt", "--format", "torchscript", "--size", "32", "64") == 0
    said = capsys.readouterr().out
    assert "any batch of 32 x 64" in said
    assert "phantom_00000.png, phantom_00001.png" in said
    _, metadata = formats.read(tmp_path / "famseg.pt", "torchscript")
    assert metadata["data"]["size"] == metadata["export"]["size"] == [32, 64]


def test_weights_in_half_precision(checkpoint, tmp_path, capsys):
    out = tmp_path / "tiny.safetensors"
    assert run(checkpoint, out, "--format", "safetensors") == 0
    said = capsys.readouterr().out
    assert f"tiny.safetensors: safetensors in half precision, {out.stat().st_size / 1e6:.1f} MB" in said
    assert "allowed: 5e-02" in said
    assert out.stat().st_size < 0.6 * (checkpoint / "checkpoints" / "best.ckpt").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_weights_need_their_suffix(checkpoint, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "tiny.bin", "--format", "safetensors") == 2
    assert "Give a name that ends in .safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_compute_something_else_do_not_get_their_name(checkpoint, tmp_path, capsys, monkeypatch):
    real = formats.FORMATS["safetensors"]

    def read(path):
        network, metadata = real.read(path)
        torch.nn.init.constant_(network.decoder.head.bias[:1], 1.0)
        return network, metadata

    monkeypatch.setitem(formats.FORMATS, "safetensors", replace(real, read=read))
    assert run(checkpoint, tmp_path / "tiny.safetensors", "--format", "safetensors") == 1
    assert "THE CHECK FAILED" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.unchecked.safetensors"]


@pytest.fixture
def plain():
    """A network of plain layers, which is captured in seconds; the whole one: see the slow test."""
    torch.manual_seed(0)
    return FAMSeg(**PLAIN).eval()


METADATA = {"model": {"in_channels": 1}, "data": {"size": [32, 64], "mean": 0.2}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_any_batch_of_a_fixed_size(plain, tmp_path, kind):
    pytest.importorskip("onnxruntime")
    formats.write(plain, kind, tmp_path / "famseg", METADATA, (32, 64))
    network, found = formats.read(tmp_path / "famseg", kind)
    assert found == METADATA
    images = torch.randn(3, 1, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain(images), rtol=1e-4, atol=1e-4)
    assert len(list(tmp_path.iterdir())) == 1  # no weights beside it


@pytest.mark.slow
def test_names_in_onnx(plain, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    formats.write(plain, "onnx", tmp_path / "famseg.onnx", METADATA, (32, 64))
    session = onnxruntime.InferenceSession(tmp_path / "famseg.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape[1:]) for one in session.get_inputs()] == [("image", [1, 32, 64])]
    assert [(one.name, one.shape[1:]) for one in session.get_outputs()] == [("logits", [3, 32, 64])]
    assert json.loads(session.get_modelmeta().custom_metadata_map["famseg"]) == METADATA


@pytest.mark.slow
@pytest.mark.timeout(1200)  # symbolic sizes take minutes on two cores
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_any_size(checkpoint, tmp_path, capsys, kind):
    assert run(checkpoint, tmp_path / "famseg", "--format", kind) == 0
    assert capsys.readouterr().out.count("masks equal") == 3
    network, _ = formats.read(tmp_path / "famseg", kind)
    assert network(torch.zeros(1, 1, 224, 256)).shape == (1, 3, 224, 256)


def test_a_file_that_computes_something_else_does_not_get_its_name(checkpoint, tmp_path, capsys, monkeypatch):
    real = formats.FORMATS["torchscript"]

    def read(path):
        network, metadata = real.read(path)
        return (lambda image: network(image) + 1e-2), metadata

    monkeypatch.setitem(formats.FORMATS, "torchscript", replace(real, read=read))
    assert run(checkpoint, tmp_path / "famseg.pt", "--format", "torchscript") == 1
    assert "THE CHECK FAILED" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["famseg.unchecked.pt"]


class Constant(torch.nn.Module):
    """The same logits for every pixel."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits).view(1, -1, 1, 1))

    def forward(self, image):
        return self.logits.expand(len(image), -1, *image.shape[-2:])


@pytest.mark.parametrize(
    ("truth", "ours", "pixels", "wrong", "passed"),
    [
        ((1.0, 0.0), (1.0, 0.00001), 0, 0, True),
        ((1.0, 1.00001), (1.0, 1.0), 32 * 64, 0, True),  # a tie: the other class, within the tolerance
        ((1.0, 1.1), (1.1, 1.0), 32 * 64, 32 * 64, False),
        ((100.0, 0.0), (100.005, 0.0), 0, 0, True),  # of the logit's size
        ((1.0, 0.0), (float("nan"), 0.0), None, None, False),
    ],
)
def test_ties_are_no_differences(truth, ours, pixels, wrong, passed):
    predictor = Predictor(Constant(*truth), {"BG": 0, "FB": 2}, (32, 64), mean=0, std=1)
    with torch.no_grad():
        found = deviation(predictor, Constant(*ours), [picture(40, 80)], batch=2, tolerance=1e-4)
    assert found.passed == passed
    assert found.batch == 1
    if pixels is not None:
        assert (found.pixels, found.wrong) == (pixels, wrong)


def test_a_damaged_file(tmp_path):
    (tmp_path / "famseg.onnx").write_bytes(b"nothing")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match=r"famseg.onnx: not a readable ONNX file"):
        formats.read(tmp_path / "famseg.onnx", "onnx")


def test_a_file_of_another_program(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other.pt: was not written by `famseg export`"):
        formats.read(tmp_path / "other.pt", "torchscript")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "16", "64"], "--size 16 64: give 32 px a side or more"),
        (["--images", "nowhere.png"], "nowhere.png"),
    ],
)
def test_mistakes(checkpoint, tmp_path, capsys, arguments, message):
    assert run(checkpoint, tmp_path / "famseg.pt", "--format", "torchscript", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*Give another --out"):
        export(checkpoint, "torchscript", tmp_path / "file" / "famseg.pt")
