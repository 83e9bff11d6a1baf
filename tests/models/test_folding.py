"""A folded network computes what the network computes."""

import pytest
import torch
from model_tester import lively, picture
from torch import nn

from famseg.folding import folded
from famseg.layers.strip import StripBlock
from famseg.models import SIZES, BiSeNetV2, FAMSeg, LibraryModel, SegNeXt

SMALL = {**SIZES["N"], "depths": (1, 1, 1, 1)}
NETWORKS = [
    lambda: FAMSeg(**SMALL),
    lambda: FAMSeg(**SMALL, mamba=False, fusion="none", upsample="bilinear"),
    lambda: FAMSeg(**SMALL, strip_scan="sequential", upsample="nearest", refine=False),
    lambda: FAMSeg(**SMALL, bottle_blocks=(0, 0, 2, 0), directions=1),
    lambda: SegNeXt(widths=(16, 32, 32, 64), depths=(1, 1, 1, 1), head_width=32),
    BiSeNetV2,
    lambda: LibraryModel("resnet18", "unet"),
    lambda: LibraryModel("mobilenetv3_small_050", "fpn"),
    lambda: LibraryModel("convnext_atto", "upernet"),
]


def trained(build):
    """A network whose norms have statistics and weights of their own."""
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("size", [(64, 64), (45, 83)])
def test_same_logits(build, size):
    model = trained(build).double()
    image = picture(2, 1, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(folded(model)(image), model(image), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", "NT")
def test_same_logits_in_single_precision(name):
    model = lively(FAMSeg(**SIZES[name]))
    image = picture(1, 1, 45, 83)
    with torch.no_grad():
        logits = model(image)
        assert (folded(model)(image) - logits).norm() < 1e-5 * logits.norm()


def test_the_network_itself_stays_as_it_is():
    model = trained(NETWORKS[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = folded(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (model, ours)]
    assert norms[1] < norms[0] / 2


def test_channels_that_a_norm_has_switched_off():
    model = trained(NETWORKS[0]).double()
    blocks = [module for module in model.modules() if isinstance(module, StripBlock)]
    for block in blocks[:2]:
        nn.init.zeros_(block.norm1.weight[0])
    image = picture(1, 1, 64, 64).double()
    ours = folded(model)
    assert sum(isinstance(m.norm1, nn.Identity) for m in ours.modules() if isinstance(m, StripBlock)) == len(blocks) - 2
    with torch.no_grad():
        torch.testing.assert_close(ours(image), model(image), rtol=1e-9, atol=1e-9)


def test_in_training_it_cannot_be():
    with pytest.raises(ValueError, match="no fixed statistics"):
        folded(NETWORKS[0]())
