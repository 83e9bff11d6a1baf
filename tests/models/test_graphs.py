"""The captured forms of FAMSeg: torch.compile, torch.export, TorchScript and ONNX give the module's logits."""

import copy
import functools

import pytest
import torch
from model_tester import lively, picture

from famseg.models import SIZES, FAMSeg

# One block of each kind a stage: what a graph can trip over is the kinds, not their number.
small = functools.partial(FAMSeg, **{**SIZES["N"], "depths": (1, 1, 1, 1)})
SIZES_TO_TRY = [(2, 64, 96), (1, 95, 131), (3, 128, 64), (1, 224, 255)]  # the last: several chunks in every scan


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()  # or a second size of image would be captured with symbolic sizes, which takes a minute


@pytest.fixture(scope="module")
def model():
    return lively(small())


def assert_same_logits(run, model):
    for batch, height, width in SIZES_TO_TRY:
        images = picture(batch, 1, height, width)
        with torch.no_grad():
            torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def program(model):
    """Any batch, height and width. The example is no multiple of 32: then nothing is specialised to "no padding"."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"image": {0: dynamic, 2: dynamic, 3: dynamic}}
    return torch.export.export(model, (picture(2, 1, 250, 370),), dynamic_shapes=shapes)


@pytest.mark.slow
def test_compiles_without_graph_breaks(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = picture(2, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.slow
def test_training_compiles_without_graph_breaks():
    ours = lively(small(drop_path=0.1)).train()
    images = picture(2, 1, 64, 64)
    torch.manual_seed(0)
    expected = ours(images)
    torch.manual_seed(0)
    logits = torch.compile(ours, backend="eager", fullgraph=True)(images)
    torch.testing.assert_close(logits, expected)
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.gpu  # symbolic sizes take two CPU cores more than four minutes
@pytest.mark.timeout(1200)  # on a GPU machine, too, where other tests compile beside it
def test_training_compiles_with_symbolic_sizes():
    compiled = torch.compile(lively(small()).cuda().train(), backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((64, 64), (95, 131)):
        compiled(picture(2, 1, *size).cuda()).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in compiled.parameters())


@pytest.mark.gpu  # on two CPU cores inductor compiles C++ for more than seven minutes
def test_inductor(model, monkeypatch):
    # Inductor multiplies some 1x1 convolutions as float32 matrices where cuDNN rounds to 10 bits, which are 0.05 of
    # these logits (float32's own rounding: 2e-5); so, no convolution does.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ours, images = copy.deepcopy(model).cuda(), picture(2, 1, 64, 96).cuda()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(ours, fullgraph=True)(images), ours(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_export(model):
    images = picture(1, 1, 64, 96)
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # symbolic sizes take minutes on two cores
def test_export_takes_any_size(model, program):
    assert_same_logits(program.module(check_guards=False), model)


@pytest.mark.slow  # the default suite exports, too
def test_torchscript_trace_takes_any_size(model):
    assert_same_logits(torch.jit.trace(model, picture(1, 1, 64, 64)), model)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_onnx_takes_any_size(model, program, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "famseg.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "famseg.onnx", providers=["CPUExecutionProvider"])
    assert_same_logits(lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0]), model)
