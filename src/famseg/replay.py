"""Functions of tensors as CUDA graphs: many launches become one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from famseg.gradients import largest_of
from famseg.streams import URGENT, WeightStream

_MODE: Any = {"capture_error_mode": "thread_local"}  # other threads, such as those that pin batches, may use the GPU


def replayed(function: Callable[..., Any], *inputs: Tensor) -> Callable[..., Any]:
    """A function without gradients as a CUDA graph.

    Args:
        function: tensors -> a tensor or a tuple of tensors, by the same operations each time.
        *inputs: of the shapes, dtypes and device of those to come.

    Returns:
        The function, for such inputs; its results are the caller's to keep.

    Raises:
        RuntimeError: it does what a capture forbids.
    """
    fixed = [tensor.clone() for tensor in inputs]
    function(*fixed)  # compiles kernels and chooses algorithms
    graph = torch.cuda.CUDAGraph()
    with _captures(graph, torch.cuda.graph_pool_handle()):
        results = function(*fixed)

    def replay(*new: Tensor, _read_by_the_graph: Callable[..., Any] = function) -> Any:
        _fill(fixed, new)
        graph.replay()
        # the next replay overwrites them
        return results.clone() if isinstance(results, Tensor) else tuple(result.clone() for result in results)

    return replay


@contextmanager
def _captures(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """`torch.cuda.graph`, but one that fails leaves this thread and the allocator as they were.

    torch (2.14) leaves the thread on the stream of the capture. Its allocator (2.11; pytorch/pytorch#180395) believes
    in the capture for good: it never again gives memory back that two streams have used, nor empties its cache.

    cuBLAS has a workspace for each stream, and a graph that of the stream it was captured on; so what is replayed
    beside other graphs is captured on its own stream. torch's for captures is one for all, on the GPU of the first.
    """
    device, here = torch.cuda.current_device(), torch.cuda.current_stream()
    with torch.cuda.stream(here):
        try:
            with torch.cuda.graph(graph, pool, _side(device) if here == torch.cuda.default_stream() else here, **_MODE):
                yield
        except BaseException:
            with suppress(RuntimeError):  # it knows
                torch._C._cuda_endAllocateToPool(device, pool)
                torch._C._cuda_releasePool(device, pool)
            raise


@cache
def _side(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=URGENT)  # type: ignore[no-untyped-call]


def captured(function: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """What a function without inputs launches, which is not carried out yet.

    Without `torch.cuda.graph`, which waits for the GPU and empties the allocator's cache: too much for each epoch.

    Raises:
        RuntimeError: it does what a capture forbids.
    """
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        graph.capture_begin(**_MODE)
        try:
            function()
        finally:
            graph.capture_end()
    return graph


class ReplayedStep:
    """A loss and its gradients as two CUDA graphs, which may be replayed in turns: forward, backward, forward, ...

    Backward leaves each gradient where the graph writes it, as the parameter's `grad`: to hand hundreds of them through
    autograd takes longer than the launch of all that computes them. The gradients of a step are thus gone with the next
    one's, and are not added to those that were there.

    Args:
        function: tensors -> scalar loss.
        parameters: whose gradients are wanted.
        sample: inputs of the shapes, dtypes and device of those to come.

    Attributes:
        gradients: parameters that have one, each with the tensor that the graph writes.
        largest: absolute value of each gradient as backward leaves it, NaN where one is NaN: float32 (gradients,).

    Raises:
        RuntimeError: the function does what a capture forbids.
    """

    WARM_UP = 3  # calls before the capture: they compile kernels, choose algorithms, learn what to cast

    def __init__(self, function: Callable[..., Tensor], parameters: Sequence[Tensor], sample: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in sample]
        self._start = torch.zeros((), device=self._inputs[0].device, requires_grad=True)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                grads = torch.autograd.grad(function(*self._inputs), parameters, allow_unused=True)
                largest_of([g for g in grads if g is not None])
        torch.cuda.current_stream().wait_stream(side)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        with _captures(self._forward, pool):
            loss = function(*self._inputs)
        self._scale = torch.ones_like(loss)
        with _captures(self._backward, pool):
            self.gradients = gradients_of(loss, parameters, self._scale)
            self.largest = largest_of([gradient for _, gradient in self.gradients])
        self._loss = loss.detach()

    def __call__(self, *batch: Tensor) -> Tensor:
        """The loss, from which `backward` goes on as from any other; the next call overwrites it."""
        loss: Tensor = _Replay.apply(self._start, self, batch)
        return loss

    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        """Replay the first graph."""
        _fill(self._inputs, batch)
        self._forward.replay()
        return self._loss

    def backward(self, scale: Tensor) -> None:
        """Replay the second for the gradient of `scale` times the loss."""
        self._scale.copy_(scale)
        self._backward.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


def gradients_of(
    loss: Tensor, parameters: Sequence[Tensor], scale: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Parameters that have a gradient of scale times the loss, each with it as `backward` leaves it; in a capture."""
    with WeightStream():
        grads = torch.autograd.grad(loss, parameters, scale, allow_unused=True)
    pairs = [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]
    own = _apart([_laid_out_as(p, g) for p, g in pairs])
    return [(p, g) for (p, _), g in zip(pairs, own, strict=True)]


class _Replay(torch.autograd.Function):
    """What autograd sees of a step: a function of one number."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, step: ReplayedStep, batch: Sequence[Tensor]) -> Tensor:
        ctx.step = step
        return step.forward(batch).detach()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[None, None, None]:
        ctx.step.backward(scale)
        return None, None, None


def _fill(fixed: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    for there, tensor in zip(fixed, new, strict=True):
        if there.shape != tensor.shape:  # it would be repeated, where it can be
            raise ValueError(f"A graph of inputs {tuple(there.shape)} cannot be replayed for {tuple(tensor.shape)}.")
        there.copy_(tensor)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """In the parameter's memory format, as autograd leaves it; an optimizer of whole lists refuses any other."""
    sides = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if all(here == there for size, here, there in sides if size > 1):
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _apart(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Each in memory of its own, as autograd leaves them.

    One tensor is the gradient of all biases that are added up; who clips or unscales it in place does so once for each.
    """
    memories: set[int] = set()
    own = []
    for gradient in gradients:
        own.append(gradient.clone() if gradient.data_ptr() in memories else gradient)
        memories.add(gradient.data_ptr())
    return own
