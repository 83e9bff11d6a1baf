import functools
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from model_tester import ModelTester, lively, picture

from famseg.data.hc18 import HC18
from famseg.errors import UserError
from famseg.inference import Predictor
from famseg.layers.mamba2d import Mamba2D
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg

CONF = Path(__file__).parents[2] / "conf" / "model"
PARAMETERS = {"N": 1.18e6, "T": 5.10e6, "S": 16.6e6, "B": 29.5e6, "L": 47.8e6}
SEGNEXT = {"T": 4.3e6, "S": 13.9e6, "B": 27.6e6, "L": 48.9e6}

small = functools.partial(FAMSeg, **SIZES["N"])


class TestFAMSeg(ModelTester):
    build = small


class TestWithoutAnything(ModelTester):
    """Every idea of the paper switched off at once."""

    build = functools.partial(
        small, mamba=False, fusion="none", upsample="bilinear", refine=False, strip_scan="sequential"
    )


def test_the_paper_s_size():
    with torch.no_grad():
        assert FAMSeg().eval()(picture(1, 1, 256, 384)).shape == (1, 3, 256, 384)


@pytest.mark.parametrize("size", [(511, 513), (540, 800)])
def test_large_and_odd(size):
    with torch.no_grad():
        logits = small().eval()(picture(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


@pytest.fixture(scope="module")
def heads():
    """Two real heads: normalised images (2, 1, 96, 144), masks of output indices, and their classes."""
    if "FAMSEG_HC18" not in os.environ:
        pytest.skip("FAMSEG_HC18 names no folder of HC18")
    source = HC18(os.environ["FAMSEG_HC18"])
    samples = [source[0], source[500]]
    predictor = Predictor(torch.nn.Identity(), source.classes, (96, 144), mean=0.2, std=0.2)
    masks = np.stack([predictor.letterbox.apply_mask(sample.mask) for sample in samples])
    masks = np.searchsorted([*source.classes.values()], masks)
    return predictor.prepared([sample.image for sample in samples]), torch.from_numpy(masks), len(source.classes)


@pytest.mark.parametrize("size", ["N", "T"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_a_training_step_on_real_images_has_finite_gradients(heads, size, half):
    images, masks, classes = heads
    torch.manual_seed(0)
    model = FAMSeg(**SIZES[size], num_classes=classes).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = CrossEntropyDice()(model(images), masks)
    loss.backward()
    assert loss.isfinite()
    bad = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert bad == []
    assert all(p.grad.any() for p in model.parameters() if p.ndim > 1)


def test_an_image_elsewhere():
    with pytest.raises(UserError, match=r"The image is on meta, the network on cpu. Move one"):
        small()(torch.zeros(1, 1, 64, 64, device="meta"))


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameter_counts(size):
    with torch.device("meta"):
        count = sum(p.numel() for p in FAMSeg(**SIZES[size]).parameters())
    assert count == pytest.approx(PARAMETERS[size], rel=0.005)
    assert count == pytest.approx(SEGNEXT.get(size, count), rel=0.25)


@pytest.mark.parametrize("size", SIZES)
def test_yaml_and_python_agree(size):
    values = yaml.safe_load((CONF / f"famseg_{size.lower()}.yaml").read_text())
    assert values.pop("_target_") == "famseg.models.FAMSeg"
    defaults = {name: p.default for name, p in inspect.signature(FAMSeg).parameters.items()} | SIZES[size]
    assert values == {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}


def test_mamba_off_is_an_identity_shortcut():
    with_mamba, without = small(), small(mamba=False)
    assert sum(isinstance(m, Mamba2D) for m in with_mamba.modules()) == 4
    assert not any(isinstance(m, Mamba2D) for m in without.modules())
    assert isinstance(without.encoder.stages[0][0].shortcut, torch.nn.Identity)


def test_without_bottle_blocks():
    model = small(bottle_blocks=(0, 0, 0, 0)).eval()
    assert not any("shortcut" in name for name, _ in model.named_parameters())
    assert model(picture(1, 1, 64, 64)).shape == (1, 3, 64, 64)


def test_no_fusion_decodes_from_the_deepest_map_alone():
    model = lively(small(fusion="none"))
    maps = model.encoder(picture(1, 1, 64, 64))
    others = [torch.randn_like(m) for m in maps[:3]]
    assert torch.equal(model.decoder([*others, maps[3]]), model.decoder(maps))


def test_full_fusion_takes_the_last_three_levels():
    model = lively(small())
    maps = model.encoder(picture(1, 1, 64, 64))
    logits = model.decoder(maps)
    changed = [not torch.equal(model.decoder([*maps[:i], maps[i] + 1, *maps[i + 1 :]]), logits) for i in range(4)]
    assert changed == [False, True, True, True]


def test_without_refinement_the_last_upsampling_carries_logits():
    model = small(refine=False, num_classes=5)
    assert model.decoder.upsamplings[-1].reduce.out_channels == 5
    assert isinstance(model.decoder.head, torch.nn.Identity)


def test_kernels_do_not_change_the_state():
    assert small(kernels="torch").state_dict().keys() == small().state_dict().keys()


def test_drop_path_grows_to_its_rate():
    rates = [m.drop_rate for m in small(drop_path=0.2).modules() if hasattr(m, "drop_rate")]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "some"}, r"model.fusion='some' is unknown; choose one of full, none"),
        ({"upsample": "bicubic"}, r"model.upsample='bicubic' .* fam, bilinear, nearest"),
        ({"kernels": "cuda"}, r"model.kernels='cuda' .* auto, torch, triton, mamba_ssm"),
        ({"strip_scan": "both"}, r"model.strip_scan='both' .* independent, sequential"),
        ({"directions": 8}, r"model.directions=8 .* 1, 2, 4"),
        ({"head_width": 32}, r"model.head_width=32 does not divide the inner width 16"),
        ({"context_width": 48}, r"model.context_width=48 .*multiple of 32"),
        ({"depths": (1, 1)}, r"model.depths=\[1, 1\] has 2 values, it takes 4"),
        ({"widths": (16, 32, 80, 0)}, r"model.widths=\(16, 32, 80, 0\): give whole numbers, 1 or more"),
        ({"widths": (16, 32, 80, 100)}, r"model.head_width=16 does not divide the inner width 100"),
        ({"head_width": 0}, r"model.head_width=0: give whole numbers, 1 or more"),
        ({"num_classes": 2.5}, r"model.num_classes=2.5: give whole numbers"),
        ({"in_channels": "1"}, r"model.in_channels=1: give whole numbers"),
        ({"depths": (1, 1, 1, -1)}, r"model.depths=\(1, 1, 1, -1\): give whole numbers, 0 or more"),
        ({"rank": 0}, r"model.rank=0: give whole numbers, 1 or more"),
        ({"strip_kernels": ()}, r"model.strip_kernels=\[\]: the lengths are odd and ascending"),
        ({"drop_path": 1.0}, r"model.drop_path=1.0: it is a rate, from 0 to below 1"),
        ({"decoder_widths": (8, 8)}, r"model.decoder_widths=\[8, 8\] has 2 values, it takes 6"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


# Class by class, three pixels of a row. A change of the mathematics changes them; say so in the message of the commit.
FROZEN = {
    "default": ({}, [0.18358, 0.17742, 0.17819, 0.52868, 0.53742, 0.53518, 0.18106, 0.19077, 0.18909]),
    "sequential": (
        {"strip_scan": "sequential"},
        [0.17134, 0.17285, 0.17655, 0.55398, 0.54605, 0.5375, 0.20356, 0.19884, 0.19166],
    ),
    "one direction": (
        {"directions": 1},
        [0.18208, 0.17341, 0.17791, 0.53133, 0.5478, 0.53541, 0.18364, 0.19899, 0.18947],
    ),
    "two directions, expand": (
        {"directions": 2, "expand": 2},
        [0.17339, 0.17197, 0.1764, 0.55358, 0.54915, 0.5413, 0.20136, 0.20098, 0.19336],
    ),
    "no mamba": ({"mamba": False}, [0.00625, 0.0218, 0.03219, 0.31448, 0.33631, 0.35289, 0.08008, 0.07339, 0.06974]),
    "no fusion": (
        {"fusion": "none"},
        [0.38724, 0.38994, 0.3887, 0.38511, 0.43267, 0.42423, -0.2876, -0.27099, -0.27318],
    ),
    "bilinear": (
        {"upsample": "bilinear"},
        [-0.1327, -0.06082, -0.13762, 0.12375, 0.19202, 0.12666, -0.03146, -0.07562, -0.02536],
    ),
    "no refinement": (
        {"refine": False},
        [0.45699, 0.44752, 0.46602, 0.17653, 0.16236, 0.17862, -0.53263, -0.52891, -0.54081],
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_logits(name):
    options, expected = FROZEN[name]
    model = lively(small(**options).double())
    with torch.no_grad():
        logits = model(picture(1, 1, 70, 90).double())
    torch.testing.assert_close(
        logits[0, :, 40, 10::35].flatten(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4
    )
