"""Functions whose inputs have the same few shapes again and again, replayed as CUDA graphs."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from famseg.kernels.launch import compiles, compiling
from famseg.replay import replayed

log = logging.getLogger(__name__)

Function = Callable[..., Any]


class Recurring:
    """A function on a GPU, without gradients: a CUDA graph for each shape of its inputs that comes again.

    The first inputs of a shape have their kernels compiled and go through the function itself, the next ones are
    captured, all later ones replayed; the graphs used last are kept. A shape that cannot be captured, for want of
    memory or since the function waits for the GPU, goes through the function itself. One thread at a time may call it.

    Args:
        function: tensors -> a tensor or a tuple of tensors, by the same operations each time.
        does: what it does to its inputs, for the log: "predicted".
        capture: (function, *inputs) -> the function as a graph.
        most: shapes that are kept.
    """

    def __init__(self, function: Function, does: str, capture: Function = replayed, most: int = 4) -> None:
        self._function, self._does, self._capture, self._most = function, does, capture, most
        self._graphs: OrderedDict[Any, Function | None] = OrderedDict()  # None: seen once

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function gives; the caller's to keep."""
        # a graph's own tensors that were made in inference mode cannot be written outside of it
        kind = (torch.is_inference_mode_enabled(), *(tensor.shape for tensor in inputs))
        seen = kind in self._graphs
        graph = self._graphs.pop(kind, None)
        if not seen and compiles():
            # a pass on what lies in memory: the function itself will say if there is too little of it
            with suppress(RuntimeError), compiling():  # all kernels at once
                self._function(*inputs)
        if seen and graph is None:
            graph = self._captured(*inputs)
        self._graphs[kind] = graph  # last in the order
        if len(self._graphs) > self._most:
            self._graphs.popitem(last=False)
        return (graph or self._function)(*inputs)

    def _captured(self, *inputs: Tensor) -> Function:
        try:
            graph: Function = self._capture(self._function, *inputs)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            log.info("%s is %s without a CUDA graph: %s", shapes, self._does, str(error).split("\n")[0])
            return self._function
        return graph
