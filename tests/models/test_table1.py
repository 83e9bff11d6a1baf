"""The networks that Table 1 compares FAMSeg with: each passes the shared tester, as its option builds it."""

import copy
import functools
import inspect
import os
from pathlib import Path

import lightning
import pytest
import torch
import yaml
from model_tester import ModelTester, picture, settled

import famseg.models
from famseg import checkpoint, schedules
from famseg.callbacks import OptimizerPhases
from famseg.data.hc18 import datamodule
from famseg.losses import CrossEntropyDice
from famseg.models import SegNeXt
from famseg.models.segnext import SIZES
from famseg.phases import OptimizerOption
from famseg.task import SegmentationTask

CONF = Path(__file__).parents[2] / "conf" / "model"
OPTIONS = ("unet", "upernet", "twins", "swin", "segnext_t", "mobilenet_v3", "convnext", "bisenet_v2")
HEAVY = ("upernet", "twins", "swin", "convnext")
PARAMETERS = {  # millions, as the first lines of the options say
    "unet": 24.4,
    "upernet": 37.3,
    "twins": 31.9,
    "swin": 36.7,
    "convnext": 37.0,
    "mobilenet_v3": 4.9,
}


def option(name):
    """The class that an option names, with the option's arguments."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return functools.partial(getattr(famseg.models, values.pop("_target_").rpartition(".")[2]), **values)


class OtherTester(ModelTester):
    """The formula of `lively` suits FAMSeg's blocks and blows up rounding in these: they keep their initial values."""

    prepare = staticmethod(settled)


@pytest.mark.slow
class HeavyTester(OtherTester):
    """More than 30 M parameters: half a minute each; `test_a_checkpoint_rebuilds_the_network` tries them by default."""


class TestUNet(OtherTester):
    build = option("unet")


class TestUPerNet(HeavyTester):
    build = option("upernet")


class TestTwins(HeavyTester):
    build = option("twins")


class TestSwin(HeavyTester):
    build = option("swin")


class TestConvNeXt(HeavyTester):
    build = option("convnext")


class TestMobileNetV3(OtherTester):
    build = option("mobilenet_v3")
    half_error = 0.5  # noise of 0.001 of the image changes its untrained logits by 0.2


class TestBiSeNetV2(OtherTester):
    build = option("bisenet_v2")


class TestSegNeXt(ModelTester):
    build = option("segnext_t")


def test_yaml_and_python_agree_for_segnext():
    for size, values in SIZES.items():
        written = yaml.safe_load((CONF / f"segnext_{size.lower()}.yaml").read_text())
        defaults = {name: p.default for name, p in inspect.signature(SegNeXt).parameters.items()} | values
        written.pop("_target_")
        assert written == {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    with torch.device("meta"):
        model = option(name)()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.05)
    assert f"{PARAMETERS[name]} M parameters" in (CONF / f"{name}.yaml").read_text().splitlines()[0]


@pytest.mark.parametrize(("size", "published"), [("T", 4.3), ("S", 13.9), ("B", 27.6), ("L", 48.9)])
def test_segnext_has_the_published_parameters(size, published):
    with torch.device("meta"):
        model = SegNeXt(in_channels=3, num_classes=150, **SIZES[size])  # the published counts are those for ADE20K
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(published, abs=0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPTIONS)
def test_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, image = settled(option(name)()), picture(1, 1, 64, 96)
    torch.onnx.export(model, (image,), tmp_path / "model.onnx", dynamo=True, verbose=False, input_names=["image"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        (logits,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_checkpoint_rebuilds_the_network(name, tmp_path):
    """What eval, predict and serve do, with nothing but the file."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | {"num_classes": 2}
    torch.manual_seed(0)
    model = settled(option(name)(num_classes=2))
    data = {"classes": {"BG": 0, "FB": 2}, "size": [64, 96], "mean": 0.2, "std": 0.2}
    metadata = {"model": values, "data": data, "version": "0", "revision": None}
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.METADATA_KEY: metadata}, tmp_path / "best.ckpt")
    images = picture(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(checkpoint.load_predictor(tmp_path / "best.ckpt")(images), model(images))


@pytest.mark.skipif("FAMSEG_HC18" not in os.environ, reason="FAMSEG_HC18 does not point to HC18's folder")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in HEAVY)) for n in OPTIONS])
def test_trains_on_real_images(name, tmp_path):
    """Two steps of a whole run on HC18, and its validation."""
    lightning.seed_everything(0, workers=True, verbose=False)
    data = datamodule(
        root=os.environ["FAMSEG_HC18"], size=(64, 96), batch_size=2, num_workers=0, cache="none", mean=0.2, std=0.2
    )
    adamw = OptimizerOption("adamw", lambda groups: torch.optim.AdamW(groups, lr=1e-3))
    model = option(name)(num_classes=2)
    before = copy.deepcopy(model.state_dict())
    task = SegmentationTask(model, CrossEntropyDice(), data.classes, adamw, schedules.adadelta)
    trainer = lightning.Trainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        callbacks=[OptimizerPhases()],
    )
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 2
    assert trainer.callback_metrics["val/loss"].isfinite()
    trained = dict(task.model.named_parameters())
    assert all(p.isfinite().all() for p in trained.values())
    assert [key for key, p in trained.items() if p.ndim > 1 and torch.equal(p, before[key])] == []
