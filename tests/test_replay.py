"""Functions and steps as CUDA graphs; what of them needs no GPU is tested without one."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from fake_streams import Streams
from torch import nn

from famseg import replay
from famseg.gradients import largest_of
from famseg.replay import ReplayedStep, _apart, _captures, _laid_out_as, _Replay, replayed


class Stand:
    """A step whose graphs are two lines of Python."""

    def __init__(self):
        self.weight, self.loss, self.scales = torch.zeros(3), torch.zeros(()), []

    def forward(self, batch):
        return self.loss.copy_(batch[0].sum())

    def backward(self, scale):
        self.scales.append(float(scale))
        self.weight.grad = torch.ones(3)


def test_autograd_sees_a_function_of_one_number():
    step, start = Stand(), torch.zeros((), requires_grad=True)
    loss = _Replay.apply(start, step, [torch.arange(4.0)])
    assert loss.item() == 6
    (loss / 2 * 8).backward()
    assert step.scales == [4]
    assert torch.equal(step.weight.grad, torch.ones(3))
    assert start.grad is None


def test_gradients_take_their_parameters_format():
    weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    gradient = torch.rand(4, 3, 5, 5)
    ours = _laid_out_as(weight, gradient)
    assert ours.stride() == weight.stride()
    assert torch.equal(ours, gradient)
    assert _laid_out_as(weight, ours) is ours
    depthwise = torch.rand(4, 1, 5, 5)
    same = depthwise.to(memory_format=torch.channels_last)  # strides of sides of 1 say nothing
    assert _laid_out_as(depthwise, same) is same


def added_up(device="cpu"):
    """Biases and the sum that a step adds to its input."""
    biases = [torch.zeros(3, device=device, requires_grad=True) for _ in range(3)]
    return biases, lambda x: (x + biases[0] + biases[1] + biases[2]).square().mean()


def test_gradients_of_biases_that_are_added_up_lie_apart():
    biases, function = added_up()
    gradients = torch.autograd.grad(function(torch.rand(4, 3)), biases)
    own = _apart(gradients)
    assert len({gradient.data_ptr() for gradient in own}) == 3
    assert own[0] is gradients[0]
    assert all(torch.equal(one, other) for one, other in zip(own, gradients, strict=True))


@pytest.mark.gpu
def test_they_are_clipped_as_autograd_s_are():
    biases, function = added_up("cuda")
    x = torch.rand(4, 3, device="cuda")
    step = ReplayedStep(function, biases, [x])
    clipped = []
    for loss in (step, function):
        for bias in biases:
            bias.grad = None
        loss(x).backward()
        torch.nn.utils.clip_grad_norm_(biases, 0.01)
        clipped.append([bias.grad.clone() for bias in biases])
    torch.testing.assert_close(*clipped)


class Device(Streams):
    """What torch leaves of a capture that fails: this thread on its stream, and, as of 2.11, the allocator in it."""

    def __init__(self, monkeypatch, knows):
        self.knows, self.current, self.underway, self.released, self.number = knows, "the step's", [], [], 1
        monkeypatch.setattr(replay, "_side", cache(replay._side.__wrapped__))
        fakes = {"current_stream": lambda: self.current, "stream": self.on, "graph": self.capture}
        fakes |= {"current_device": lambda: self.number, "default_stream": lambda: "the step's"}
        fakes |= {"Stream": lambda number, priority: f"captures of {number}"}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *where: self.released.append(where))

    @contextmanager
    def capture(self, graph, pool, stream, capture_error_mode):
        before, self.current = self.current, stream
        self.underway += [] if self.knows else [(1, pool)]
        yield
        self.underway.clear()
        self.current = before

    def end(self, *where):
        if where not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(where)


@pytest.mark.parametrize("knows", [False, True])
def test_a_capture_that_fails_leaves_nothing(monkeypatch, knows):
    device = Device(monkeypatch, knows)

    def wait():
        assert device.current == "captures of 1"
        raise ValueError("waits for the GPU")

    with pytest.raises(ValueError, match="waits for the GPU"), _captures("graph", "pool"):
        wait()
    assert device.current == "the step's"
    assert not device.underway
    assert device.released == ([] if knows else [(1, "pool")])


def test_what_runs_beside_the_step_is_captured_beside_it(monkeypatch):
    """On torch's stream for captures it would have the step's workspace of cuBLAS, too."""
    device = Device(monkeypatch, knows=True)
    with _captures("graph", "pool"):
        assert device.current == "captures of 1"
    with device.on("the batches'"), _captures("graph", "pool"):
        assert device.current == "the batches'"


def test_each_gpu_is_captured_on_a_stream_of_its_own(monkeypatch):
    """On that of another GPU nothing would be captured, and each replay leave the first result."""
    device = Device(monkeypatch, knows=True)
    for device.number in (0, 1, 0):
        with _captures("graph", "pool"):
            assert device.current == f"captures of {device.number}"


@pytest.mark.gpu
def test_nor_does_it_on_a_gpu():
    stream, x = torch.cuda.current_stream(), torch.zeros(1 << 20, device="cuda")
    with pytest.raises(RuntimeError):
        replayed(lambda a: a + a.sum().item(), x)
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # refused, while a capture is under way
    side = torch.cuda.Stream()
    before = torch.cuda.memory_stats()["active_bytes.all.current"]
    for _ in range(100):
        x.clone().record_stream(side)
        torch.cuda.synchronize()
    x.clone()
    assert torch.cuda.memory_stats()["active_bytes.all.current"] <= before + 2 * x.nbytes
    assert replayed(lambda a: a + 1, x)(x + 1)[0] == 2


@pytest.mark.gpu
def test_a_functions_results_are_kept():
    function = replayed(lambda a, b: (a + b, a.sum()), *torch.zeros(2, 5, device="cuda"))
    inputs = torch.rand(3, 2, 5, device="cuda")
    kept = [function(*pair) for pair in inputs]
    for (a, b), (both, total) in zip(inputs, kept, strict=True):
        assert torch.equal(both, a + b)
        torch.testing.assert_close(total, a.sum())


@pytest.mark.gpu
def test_other_shapes_are_refused():
    function = replayed(lambda a: a + 1, torch.zeros(4, 2, device="cuda"))
    with pytest.raises(ValueError, match=r"inputs \(4, 2\) cannot be replayed for \(1, 2\)"):
        function(torch.zeros(1, 2, device="cuda"))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.norm(self.conv(x)).square().mean()


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_steps_gradients_are_those_of_autograd(scale):
    torch.manual_seed(0)
    network = Network().cuda().to(memory_format=torch.channels_last)
    parameters, inputs = list(network.parameters()), torch.rand(4, 2, 3, 8, 8, device="cuda")
    step = ReplayedStep(network, parameters, [torch.zeros(2, 3, 8, 8, device="cuda")])
    for batch in inputs:
        network.zero_grad(set_to_none=True)
        loss = step(batch)
        (scale * loss).backward()
        plain = network(batch)
        torch.testing.assert_close(loss, plain)
        references = torch.autograd.grad(scale * plain, parameters, allow_unused=True)
        for p, reference in zip(parameters, references, strict=True):
            assert (p.grad is None) == (reference is None)
            if reference is not None:
                torch.testing.assert_close(p.grad, reference, rtol=1e-4, atol=1e-5 * scale)
                assert p.grad.stride() == p.stride()
        assert torch.equal(step.largest, largest_of([p.grad for p in parameters if p.grad is not None]))
