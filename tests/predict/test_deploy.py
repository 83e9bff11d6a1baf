"""A deployed network predicts what the network predicts: folded, graphed, and without repeated work on weights."""

import copy
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from famseg import deploy
from famseg.deploy import Graphed, Once, Product, deployed, with_products
from famseg.models import SIZES, FAMSeg, LibraryModel

SMALL = {**SIZES["N"], "depths": (1, 1, 1, 1), "decoder_widths": (32, 16, 16, 16, 16, 16)}
SHAPES = [(1, 1, 64, 96), (2, 1, 64, 96), (1, 1, 45, 83)]


class Operations(TorchDispatchMode):
    """Counts what it sees."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = FAMSeg(**SMALL)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(2, 1, 64, 96))  # statistics
        model.eval()
        model.decoder.head.bias -= model(torch.rand(2, 1, 64, 96)).mean((0, 2, 3))  # every class somewhere
    return model.eval().requires_grad_(False)


@pytest.fixture
def captures(monkeypatch):
    """What is captured on a machine that can capture nothing: the shapes of the images, in order."""
    shapes = []

    def capture(function, image, fixed):
        shapes.append(tuple(image.shape))
        return lambda new: function(new) + 100.0

    monkeypatch.setattr(deploy, "captured", capture)
    return shapes


def tensors(model):
    return [*model.parameters(), *model.buffers()]


def test_on_a_cpu_it_is_folded(network):
    image = torch.rand(2, 1, 64, 96)
    ours = deployed(network)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in ours.modules()) < 10
    torch.testing.assert_close(ours(image), network(image), rtol=1e-5, atol=1e-5)


def test_a_network_of_another_runtime_stays_as_it_is():
    other = nn.Identity().eval()
    assert deployed(other) is other


def test_what_is_captured_leaves_out_work_on_fixed_tensors(captures):
    model = Graphed(nn.Identity(), narrow=False)
    images = [torch.full((1, 1, 2, 2), float(n)) for n in (1, 2)]
    assert [model(image).mean().item() for image in images] == [1, 102]
    assert captures == [(1, 1, 2, 2)]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_work_on_weights_is_done_once(network, shape, narrow):
    def passed(image):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=narrow, cache_enabled=False):
            return network(image)

    images = torch.rand(2, *shape)
    once, counts = Once(tensors(network)), []
    for _ in range(3):
        with Operations() as seen, once:
            passed(images[0])
        counts.append(seen.count)
    assert counts[1] == counts[2]
    with once:
        ours = passed(images[1])
    torch.testing.assert_close(ours, passed(images[1]), rtol=0, atol=0)
    assert counts[0].total() - counts[1].total() > (150 if narrow else 20)  # casts of weights, and merged scans


def test_random_numbers_are_drawn_in_each_pass():
    like = torch.zeros(8)
    once = Once([like])
    draws = []
    for _ in range(3):
        with once:
            draws.append(torch.rand_like(like))
    assert not torch.equal(draws[1], draws[2])


def test_a_pass_that_changes_a_weight_is_refused():
    weight = torch.ones(3)
    with Once([weight]), pytest.raises(RuntimeError, match="writes into a tensor that was to stay fixed"):
        weight.add_(1)
    with Once([weight]), pytest.raises(RuntimeError, match="stay fixed"):
        (weight * 2).mul_(3)
    with Once([weight]):
        assert torch.zeros(3).add_(weight).sum() == weight.sum()


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 5, 1, 1), (3, 5, 1, 4)])
def test_a_product_is_its_convolution(shape, memory_format):
    conv = nn.Conv2d(5, 4, 1)
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    torch.testing.assert_close(Product.of(conv)(x), conv(x))


@pytest.mark.parametrize("build", [lambda: FAMSeg(**SMALL), lambda: LibraryModel("mobilenetv3_small_050", "fpn")])
def test_a_network_of_products(build):
    model, image = build().double().eval(), torch.rand(2, 1, 45, 83).double()
    ours = with_products(copy.deepcopy(model))
    assert sum(isinstance(module, Product) for module in ours.modules()) > 20
    with torch.no_grad():
        torch.testing.assert_close(ours(image), model(image))


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_masks_on_a_gpu(network, kernels):
    """Folded and graphed, in bf16: about as near the network in float32 as the plain one in bf16 is."""
    plain = FAMSeg(**SMALL, kernels=kernels)
    plain.load_state_dict(network.state_dict())
    plain = plain.cuda().eval()
    ours = deployed(plain)
    torch.manual_seed(1)
    for shape in [*SHAPES, (8, 1, 256, 384), *SHAPES]:
        for _ in range(4):  # plain, captured, replayed
            image = torch.rand(shape, device="cuda")
            with torch.no_grad():
                exact = plain(image)
                with torch.autocast("cuda", torch.bfloat16):
                    half = plain(image).float()
            logits = ours(image).float()
            assert (logits - exact).norm() < 2 * (half - exact).norm() + 1e-3 * exact.norm()
            first, second = exact.topk(2, dim=1).values.unbind(1)
            sure = first - second > 2 * (logits - exact).abs().amax(1)
            assert torch.equal(logits.argmax(1)[sure], exact.argmax(1)[sure])
            assert sure.float().mean() > 0.3


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_a_replay_is_the_plain_prediction(network, kernels, monkeypatch):
    """Float32: the same numbers, whatever was predicted in between."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = FAMSeg(**SMALL, kernels=kernels)
    model.load_state_dict(network.state_dict())
    model = Graphed(model.cuda().eval().requires_grad_(False), narrow=False)
    images = [torch.rand(shape, device="cuda") for shape in SHAPES]
    plain = [model(image) for image in images]
    for _ in range(3):
        for image, expected in zip(images, plain, strict=True):
            torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert all(function not in (None, model._plain) for function in model._functions.values())


@pytest.mark.gpu
def test_no_kernel_is_compiled_by_its_launch(network, monkeypatch):
    knobs = pytest.importorskip("triton").knobs
    modules = [module for name, module in sys.modules.items() if name.startswith("famseg.kernels.")]
    for kernel in (value for module in modules for value in vars(module).values() if hasattr(value, "device_caches")):
        kernel.device_caches.clear()  # as in a process that has launched none yet
    early = []
    monkeypatch.setattr(
        knobs.runtime, "jit_post_compile_hook", lambda *, is_manual_warmup, **_: early.append(is_manual_warmup)
    )
    plain = FAMSeg(**SMALL, kernels="triton")
    plain.load_state_dict(network.state_dict())
    deployed(plain.cuda().eval())(torch.rand(1, 1, 64, 96, device="cuda"))
    assert len(early) > 10
    assert all(early)
