import json

import numpy as np
import onnx
import pytest
import torch

from famseg.backends import load_network
from famseg.cli import main
from famseg.errors import UserError
from famseg.inference import segment
from famseg.layers.mamba2d import Mamba2D

BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def network():
    """Logits from grey values by a convolution, with weights that matter."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.GELU(), torch.nn.Conv2d(8, 3, 1)).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    return exported(network, (64, 96), tmp_path_factory.mktemp("exported") / "network.onnx")


def exported(network, size, path):
    """The network as `famseg export` leaves it: ONNX, the metadata as JSON under the key `famseg`."""
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(
        network, (torch.zeros(2, 1, *size),), dynamo=True, verbose=False, dynamic_shapes=shapes, external_data=False
    )
    data = {"classes": {"BG": 0, "FL": 1, "FB": 2}, "size": size, "resize": "letterbox", "mean": 0.3, "std": 0.2}
    program.model.metadata_props["famseg"] = json.dumps({"format": 1, "data": data})
    program.save(path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_those_of_the_network(network, file, backend):
    predictor = load_network(file, backend=backend)
    images = torch.randn(3, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(predictor(images), network(images), atol=1e-4, rtol=1e-4)
    assert (predictor.size, predictor.mean, predictor.std) == ((64, 96), 0.3, 0.2)
    assert predictor.classes == {"BG": 0, "FL": 1, "FB": 2}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_mambas_scan_is_that_of_the_network(tmp_path, backend):
    """OpenVINO 2026.4.1 gets it wrong where the batch is free."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 1), Mamba2D(8, head_width=4), torch.nn.Conv2d(8, 3, 1)).eval()
    predictor = load_network(exported(network, (16, 24), tmp_path / "network.onnx"), backend=backend)
    images = torch.randn(3, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(predictor(images), network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_output_is_not_overwritten_by_the_next(file, backend):
    predictor = load_network(file, backend=backend)
    first = predictor(torch.zeros(1, 1, 64, 96))
    kept = first.clone()
    predictor(torch.ones(1, 1, 64, 96))
    assert torch.equal(first, kept)


def test_backends_agree_on_pictures(file):
    picture = np.random.default_rng(0).integers(0, 256, (150, 170), dtype=np.uint8)
    one, other = (next(segment([load_network(file, backend=backend)], [picture])) for backend in BACKENDS)
    assert (one.mask != other.mask).mean() < 1e-3
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_the_command_takes_an_onnx_file(file, picture, write_image, tmp_path, backend):
    image = write_image("scan.png", picture)
    command = ["predict", str(image), "--checkpoint", str(file), "--out", str(tmp_path / "out"), "--backend", backend]
    assert main(command) == 0
    assert (tmp_path / "out" / "masks" / "scan.png").exists()


@pytest.mark.parametrize(
    ("name", "device", "backend", "says"),
    [
        ("network.onnx", "auto", "torch", "torch does not run ONNX"),
        ("network.onnx", "cuda", "auto", "run on the CPU"),
        ("gone.onnx", "auto", "auto", "no such file"),
        ("run", "auto", "openvino", "openvino runs ONNX files. Make one: famseg export"),
    ],
)
def test_what_does_not_go_together_is_named(file, name, device, backend, says):
    with pytest.raises(UserError, match=says):
        load_network(file.parent / name, device, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_of_others_are_refused(file, tmp_path, backend):
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="not written by `famseg export`"):
        load_network(tmp_path / "other.onnx", backend=backend)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"bad\.onnx: not a readable ONNX file"):
        load_network(tmp_path / "bad.onnx", backend=backend)


def test_a_missing_library_is_named(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'famseg\[openvino\]'"):
        load_network(file, backend="openvino")
