"""Side by side in a CUDA graph: who runs on which stream and who waits for whom, with stand-ins for the streams."""

import gc
import sys
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fake_streams import Streams
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from famseg import replay, streams, update
from famseg.kernels import norm_head
from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.hamburger import Hamburger
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.strip import StripBlock
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg
from famseg.streams import WeightStream, for_weight, forked
from famseg.update import SideBySide


class Lane:
    """A stream whose work is done at once; what was asked of it, in order."""

    device = None

    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def wait_stream(self, other):
        self.gpu.log.append((self.name, "waits for", other.name))

    def record_event(self):
        return f"a place on {self.name}"

    def wait_event(self, event):
        self.gpu.log.append((self.name, "waits for", event))


class GPU(TorchDispatchMode, Streams):
    """Streams, and the operators that were called on each."""

    def __init__(self):
        super().__init__()
        self.log, self.main = [], Lane(self, "main")
        self.current = self.main

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.log.append((self.current.name, "runs", func.name()))
        return func(*args, **(kwargs or {}))

    def on_lane(self, name):
        return [what for lane, does, what in self.log if lane == name and does == "runs"]


@pytest.fixture
def gpu(monkeypatch):
    gpu = GPU()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.on)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    idle = []
    monkeypatch.setattr(streams, "_idle_branches_of", lambda stream: idle)
    monkeypatch.setattr(streams, "_new_branch", lambda stream: Lane(gpu, "branch"))
    monkeypatch.setattr(streams, "_sides_of", lambda _, number: [Lane(gpu, f"side {i}") for i in range(number)])
    monkeypatch.setattr(streams, "_weights_of", lambda stream: Lane(gpu, "weights"))
    return gpu


def gradients(loss, parameters, gpu):
    with gpu, WeightStream():
        return torch.autograd.grad(loss, parameters)


def test_a_weights_gradient_runs_beside_and_is_waited_for_at_the_end(gpu):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Conv2d(3, 1, 3)), torch.randn(2, 2, 9, 9)
    loss = model(x).square().mean()
    plain = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    ours = gradients(loss, list(model.parameters()), gpu)
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)
    assert gpu.on_lane("weights") == ["aten::convolution_backward"] * 2
    assert gpu.on_lane("main").count("aten::convolution_backward") == 1  # the image has no gradient
    first, second = (gpu.log.index((lane, "runs", "aten::convolution_backward")) for lane in ("weights", "main"))
    assert first < second  # else it would wait for the gradient of the map, too
    assert gpu.log[0] == ("weights", "waits for", "main")
    assert gpu.log[-1] == ("main", "waits for", "weights")


def test_each_waits_for_what_it_reads(gpu):
    conv = nn.Conv2d(2, 3, 3)
    gradients((conv(torch.randn(1, 2, 5, 5)) ** 2).sum(), [conv.weight], gpu)
    beside = gpu.log.index(("weights", "runs", "aten::convolution_backward"))
    assert gpu.log[beside - 1] == ("weights", "waits for", "main")


def test_what_reads_the_gradient_of_a_weight_follows(gpu):
    """A weight that is used twice, and made of another one; views are no work."""
    weight, x = torch.randn(3, 2, 9, requires_grad=True), torch.randn(1, 2, 9, 9, requires_grad=True)
    taps = (2 * weight).view(3, 2, 3, 3)
    loss = F.conv2d(x, taps).sum() + F.conv2d(x.tanh(), taps).sum()
    plain = torch.autograd.grad(loss, [weight, x], retain_graph=True)
    ours = gradients(loss, [weight, x], gpu)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    read = [name for name in gpu.on_lane("weights") if name != "aten::convolution_backward"]
    assert read == ["aten::add.Tensor", "aten::mul.Tensor"]
    assert "aten::tanh_backward" in gpu.on_lane("main")


def test_what_is_written_with_the_gradient_of_a_weight_is_one(gpu):
    """`_foreach_copy_` returns nothing; it casts all gradients together."""
    with gpu, WeightStream() as stream:
        made = stream.call(torch.neg, torch.ones(2))
        written = torch.empty(2)
        torch._foreach_copy_([written], [made])
        written + 1
    assert gpu.on_lane("weights") == ["aten::neg", "aten::_foreach_copy_", "aten::add.Tensor"]


def test_a_weight_made_by_a_convolution(gpu):
    """Its own gradient is read by a convolution's backward pass."""
    weight, kernel = torch.randn(1, 1, 5, 5, requires_grad=True), torch.randn(1, 1, 3, 3)
    loss = F.conv2d(torch.randn(1, 1, 9, 9, requires_grad=True), F.conv2d(weight, kernel)).sum()
    gradients(loss, [weight], gpu)
    assert gpu.on_lane("weights").count("aten::convolution_backward") == 2


def test_a_compiled_backward_pass_stays(gpu):
    """It reads gradients of weights by kernels that no one sees; here it is a function of the same name."""

    class CompiledFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return F.conv2d(x, weight)

        @staticmethod
        def backward(ctx, dy):
            mask = [False, True, False]
            options = ([0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask)
            assert streams._weight_stream.get() is None
            return None, torch.ops.aten.convolution_backward(dy, *ctx.saved_tensors, *options)[1]

    weight = torch.randn(1, 1, 3, 3, requires_grad=True)
    gradients(CompiledFunction.apply(torch.randn(1, 1, 5, 5), weight).sum(), [weight], gpu)
    assert gpu.on_lane("weights") == []


@pytest.mark.parametrize("current", ["main", "branch"])
@pytest.mark.parametrize(("most", "alive"), [(0, False), (2**30, True)])
def test_memory_that_it_reads_is_kept_until_it_has(gpu, monkeypatch, most, alive, current):
    """Who may use it again is the stream that it came from, also where a branch is under way: main."""
    monkeypatch.setattr(streams, "MOST_HELD", most)
    read = torch.ones(8)
    kept = weakref.ref(read)
    with gpu, WeightStream() as stream:
        with gpu.on(gpu.main if current == "main" else Lane(gpu, current)):
            stream.call(torch.sum, read)
        del read
        gc.collect()
        assert (kept() is not None) == alive
        for lane in {"main", current}:
            assert ((lane, "waits for", "a place on weights") in gpu.log) == (not alive)
    assert kept() is None


def test_what_it_has_made_keeps_its_memory(gpu):
    """Else another tensor would lie there, and its readers were taken for those of a gradient."""
    with gpu, WeightStream() as stream:
        made = weakref.ref(stream.call(torch.neg, torch.ones(2)))
        gc.collect()
        assert made() is not None
    assert made() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter runs where there is no GPU, see conftest.py")
def test_sums_of_a_kernels_partials_run_beside(gpu, monkeypatch):
    """Of the strip attention: taps of the 5x5, lines, their scans' weights, and the gate."""
    from famseg.kernels import partials
    from famseg.layers.strip import StripAttention

    merged_on, launch = [], partials.start
    monkeypatch.setattr(partials, "start", lambda *a, **k: (merged_on.append(gpu.current.name), launch(*a, **k)))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.manual_seed(0)
    attention = StripAttention(4, (3, 5), backend="triton")
    loss = attention(torch.randn(1, 4, 6, 7)).square().mean()
    plain = torch.autograd.grad(loss, list(attention.parameters()), retain_graph=True)
    merged_on.clear()
    ours = gradients(loss, list(attention.parameters()), gpu)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert merged_on == ["weights"] * 3
    assert "famseg::split_scans" in gpu.on_lane("weights")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter runs where there is no GPU, see conftest.py")
def test_no_kernel_elsewhere_reads_what_it_made(gpu, monkeypatch):
    """An operator may not go on to read, where it runs, what it had `for_weight` make: no one sees its kernels."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    launched = set()
    for name in [name for name in sys.modules if name.startswith("famseg.kernels.")]:
        module = sys.modules[name]
        if hasattr(module, "start"):
            monkeypatch.setattr(module, "start", watched(module.start, gpu, launched))
    torch.manual_seed(0)
    ends = SimpleNamespace(norm=nn.BatchNorm2d(16), head=nn.Conv2d(16, 3, 1))
    cases = [
        (StripBlock(16, 4, (3, 5), backend="triton"), (1, 16, 6, 7)),
        (FeatureAwareUpsample(16, 8, 16, 3, "triton"), (1, 16, 5, 6)),
        (Mamba2D(32, backend="triton"), (1, 32, 4, 5)),
        (Hamburger(32, 4, backend="triton"), (1, 32, 4, 5)),
        (lambda x: norm_head.norm_head(x, ends.norm, ends.head.weight.flatten(1), ends.head.bias), (1, 16, 5, 6)),
    ]
    for function, shape in cases:
        x = torch.randn(shape).half().requires_grad_()
        with torch.autocast("cpu", torch.float16):
            loss = function(x).float().square().mean()
        weights = [*function.parameters()] if isinstance(function, nn.Module) else [ends.norm.weight, ends.head.weight]
        with gpu, WeightStream() as stream:
            gpu.stream = stream
            torch.autograd.grad(loss, [x, *weights], allow_unused=True)
    assert {"main", "weights"} <= launched


def watched(start, gpu, launched):
    """A launch that may not read what the stream of weights has made, but on it."""

    def launch(kernel, grid, *arguments, **options):
        made = getattr(getattr(gpu, "stream", None), "_made", {})
        if made:
            launched.add(gpu.current.name)
        if gpu.current.name != "weights":
            assert not any(streams._memory(t) in made for t in streams._tensors(arguments)), kernel
        start(kernel, grid, *arguments, **options)

    return launch


def test_elsewhere_nothing_runs_beside(gpu, monkeypatch):
    with gpu, WeightStream():
        torch.ones(1) + 1
    gpu.log.clear()
    assert for_weight(torch.add, torch.ones(1), 2) == 3
    assert forked(torch.neg, torch.ones(1))() == -1  # no CUDA tensor
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert forked(lambda x: gpu.current.name, OnGPU())() == "main"
    assert gpu.log == []


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_update_runs_a_launchs_parameters_beside_another(gpu, monkeypatch, optimizer):
    monkeypatch.setattr(update, "AT_ONCE", 2)
    results = []
    for context in (nullcontext, SideBySide):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3)) for _ in range(5)]
        optimize = optimizer(parameters, lr=0.1, fused=True)
        for parameter in parameters:
            parameter.grad = torch.randn(3)
        with gpu, context():
            optimize.step()
        results.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    ran = [lane for lane, does, what in gpu.log if does == "runs" and "_fused_" in what]
    assert ran == ["main", "side 0", "side 1", "side 2"]
    waits = [entry for entry in gpu.log if entry[1] == "waits for"]
    assert waits == [(f"side {i}", "waits for", "main") for i in range(3)] + [
        ("main", "waits for", f"side {i}") for i in range(3)
    ]


class OnGPU:
    """A map that says so."""

    is_cuda = True


def test_a_branch_waits_for_its_input_and_is_waited_for(gpu):
    x, ran_on = OnGPU(), []
    later = forked(lambda x, more: ran_on.append((gpu.current.name, more)) or 7, x, "more")
    assert ran_on == [("branch", "more")]
    assert gpu.log == [("branch", "waits for", "main")]
    assert later() == 7
    assert gpu.log[1:] == [("main", "waits for", "branch")]


def test_who_waits_for_a_branch_does_not_wait_for_another(gpu, monkeypatch):
    names = iter("abc")
    monkeypatch.setattr(streams, "_new_branch", lambda stream: Lane(gpu, next(names)))
    long = forked(lambda x: gpu.current.name, OnGPU())
    assert [forked(lambda x: gpu.current.name, OnGPU())() for _ in range(2)] == ["b", "b"]
    assert ("main", "waits for", "a") not in gpu.log
    assert long() == "a"
    assert gpu.log[-1] == ("main", "waits for", "a")


def test_a_branch_that_nobody_waits_for_leaves_its_stream_to_another(gpu, monkeypatch):
    """Of what is computed again for backward, only what it needs."""
    names = iter("ab")
    monkeypatch.setattr(streams, "_new_branch", lambda stream: Lane(gpu, next(names)))
    forked(lambda x: None, OnGPU())
    branches = [forked(lambda x: gpu.current.name, OnGPU()) for _ in range(2)]
    assert [branch() for branch in branches] == ["a", "b"]


def test_a_branchs_inputs_live_until_they_have_been_read(gpu):
    x, other = OnGPU(), OnGPU()
    kept = [weakref.ref(x), weakref.ref(other)]
    later = forked(lambda x, other: None, x, other)
    del x, other
    gc.collect()
    assert all(each() is not None for each in kept)
    later()
    del later
    gc.collect()
    assert all(each() is None for each in kept)


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["triton", "torch"])
@pytest.mark.parametrize("size", [(96, 160), (256, 384)])
def test_gradients_are_those_of_one_stream(monkeypatch, kernels, size):
    """To the last digit, in thirty replays: none reads what another has not written, or writes what it still reads."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True)
    try:
        ours = replays(kernels, size)
        monkeypatch.setattr(replay, "WeightStream", nullcontext)
        for module in ("layers.fam", "layers.hamburger", "layers.residual", "models.decoder"):
            monkeypatch.setattr(f"famseg.{module}.forked", at_once)
        single = replays(kernels, size)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(ours, single, strict=True))
    assert not torch.equal(ours[0], ours[-1])


def at_once(function, *inputs):
    result = function(*inputs)
    return lambda: result


def replays(kernels, size):
    """All gradients of thirty captured steps in bf16."""
    torch.manual_seed(0)
    model = FAMSeg(**SIZES["T"], kernels=kernels).cuda().train().to(memory_format=torch.channels_last)
    loss, mask = CrossEntropyDice(), torch.randint(3, (3, *size), device="cuda")
    image = torch.randn(3, 1, *size, device="cuda")

    def function(image, mask):
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(image)
        return loss(logits, mask)

    step = replay.ReplayedStep(function, list(model.parameters()), (image, mask))
    results = []
    for i in range(30):
        step(image * (1 + i / 10), mask).backward()
        results.append(torch.cat([gradient.float().flatten() for _, gradient in step.gradients]))
    return results
