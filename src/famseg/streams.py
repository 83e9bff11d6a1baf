"""Kernels that do not wait for each other, side by side in a CUDA graph.

What is captured on one stream runs one kernel after the other, and many of a network's kernels are too small to fill a
GPU. Here branches of the forward pass, and gradients of weights in the backward pass, are captured on streams of their
own. A pass that is not captured runs as ever: there Python, which launches the kernels, is what takes the time.
"""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
URGENT = -1  # the priority of streams that others wait for, over those of weights' gradients
MOST_HELD = 256 * 2**20  # bytes that gradients of weights, which are in no hurry, may keep from being used again

_convolution_backward = torch.ops.aten.convolution_backward.default
_weight_stream: ContextVar["WeightStream | None"] = ContextVar("_weight_stream", default=None)


def forked(function: Callable[..., T], x: Tensor, *others: Any) -> Callable[[], T]:
    """Start a branch: function(x, *others), whose result is not needed yet.

    What autograd does for it in backward is a branch as well: it keeps each function's stream.

    Args:
        function: from tensors to a tensor.
        x: its first argument, a tensor.
        *others: the further ones.

    Returns:
        What waits for the result and gives it; to be called on the stream that is the current one now.
    """
    if torch.compiler.is_compiling() or not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        result = function(x, *others)
        return lambda: result
    here = torch.cuda.current_stream()
    idle = _idle_branches_of(here)
    side = idle.pop() if idle else _new_branch(here)
    later = _after(here, side, function, x, *others)

    def joined(_read_meanwhile: Any = (x, others)) -> T:
        here.wait_stream(side)
        return later

    # Not before: who waits for a branch waits for all on its stream. For a checkpoint's last branch nobody does.
    weakref.finalize(joined, idle.append, side)
    return joined


def side_by_side(calls: Sequence[Callable[[], Any]]) -> None:
    """Make calls that do not wait for each other, each on its own stream, and have the current one wait for all."""
    here = torch.cuda.current_stream()
    sides = _sides_of(here, len(calls))
    for side, call in zip(sides, calls, strict=True):
        _after(here, side, call)
    for side in sides:
        here.wait_stream(side)


def for_weight(function: Callable[..., T], *arguments: Any) -> T:
    """What makes the gradient of a weight from these tensors; within `WeightStream` on its stream."""
    stream = _weight_stream.get()
    return function(*arguments) if stream is None else stream.call(function, *arguments)


class WeightStream(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A backward pass within it makes gradients of weights on a stream of their own.

    No layer before waits for them. These are a convolution's, and what `for_weight` calls; and each operator that reads
    one of them follows on that stream, so that nothing has to wait for it before the end, where the current stream
    does. A compiled backward pass reads by kernels that are no operators: it stays where it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        self._stream = _weights_of(here)
        self._made: dict[int, Tensor] = {}  # on the stream, by the memory they lie in, which they keep from others
        # What the stream reads stays until it has: (its place on the stream, tensors). Then their memory is used again,
        # by the stream that it came from: one of the others.
        self._held: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()
        self._others = [here]
        self._bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reads = not func.is_view and any(_memory(t) in self._made for t in _tensors((args, kwargs)))
        if _is_compiled():
            if reads:
                torch.cuda.current_stream().wait_stream(self._stream)
            return func(*args, **kwargs)
        if reads:
            result = self.call(func, *args, **kwargs)
            self._mark(_written(func, args, kwargs))
            return result
        if func is _convolution_backward:
            return self._convolution_backward(*args)
        token = _weight_stream.set(self)
        try:
            return func(*args, **kwargs)
        finally:
            _weight_stream.reset(token)

    def __enter__(self) -> "WeightStream":
        self._stream.wait_stream(self._others[0])  # a capture ends with all streams that were waited for
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._others[0].wait_stream(self._stream)
        self._made.clear()
        self._held.clear()

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """function(*args, **kwargs) on the stream, after all that the current one has to do."""
        here = torch.cuda.current_stream()
        if here not in self._others:
            self._others.append(here)
        result = _after(here, self._stream, function, *args, **kwargs)
        self._mark(_tensors(result))
        self._hold(_tensors((args, kwargs)))
        return result

    def _mark(self, tensors: list[Tensor]) -> None:
        self._made |= {_memory(t): t for t in tensors}

    def _hold(self, tensors: list[Tensor]) -> None:
        self._held.append((self._stream.record_event(), tensors))
        self._bytes += _bytes(tensors)
        while self._bytes > MOST_HELD:
            event, read = self._held.popleft()
            for other in self._others:
                other.wait_event(event)
            self._bytes -= _bytes(read)

    def _convolution_backward(self, dy: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Sequence[Tensor | None]:
        *geometry, (for_x, *for_weights) = options
        dx = dweight = dbias = None
        if any(for_weights):  # first: what the stream waits for ends before the gradient of x
            wanted = [False, *for_weights]
            _, dweight, dbias = self.call(_convolution_backward, dy, x, weight, *geometry, wanted)
        if for_x:
            dx, _, _ = _convolution_backward(dy, x, weight, *geometry, [True, False, False])
        return dx, dweight, dbias


def _after(
    here: torch.cuda.Stream, side: torch.cuda.Stream, function: Callable[..., T], *args: Any, **kwargs: Any
) -> T:
    """function(*args, **kwargs) on the stream `side`, after all that `here` has to do by now."""
    side.wait_stream(here)
    with torch.cuda.stream(side):
        return function(*args, **kwargs)


def _is_compiled() -> bool:
    """Whether a compiled backward pass calls the operator."""
    node = torch._C._current_autograd_node()
    return node is not None and node.name() == "CompiledFunctionBackward"


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that the operator writes."""
    values = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return _tensors([values.get(name) for name in names])


@cache
def _idle_branches_of(stream: torch.cuda.Stream) -> list[torch.cuda.Stream]:
    """For branches of what is captured on a stream: another thread may capture on another one meanwhile."""
    return []


def _new_branch(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    return torch.cuda.Stream(stream.device, priority=URGENT)  # type: ignore[no-untyped-call]


@cache
def _sides_of(stream: torch.cuda.Stream, number: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(stream.device, priority=URGENT) for _ in range(number)]  # type: ignore[no-untyped-call]


@cache
def _weights_of(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    return torch.cuda.Stream(stream.device)  # type: ignore[no-untyped-call]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)
