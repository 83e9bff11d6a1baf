"""A map that two layers read, without a launch that adds its two gradients.

Autograd adds them in a pass of its own. Here an op has two outputs, so that backward comes to it with both gradients,
and its kernel adds them in float32 on its way. Either the op reads the map and hands it on to the second reader, or it
makes the map for both:

    y, x = op_shared(x, ...)         dx has the gradient of the x that was handed on
    y, again = op_twice(x, ...)      dx is that of the sum of both gradients of y
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from famseg.kernels.tiles import channels_last

Op = Callable[..., Tensor]
TwoOutputs = Callable[..., tuple[Tensor, Tensor]]


def sharing(op: Op, keep: Callable[..., None], differentiate: Callable[..., Any]) -> TwoOutputs:
    """The op (x, ...) -> y as (x, ...) -> y and x.

    Args:
        op: takes x first.
        keep: as `setup_context` of `torch.library.register_autograd`.
        differentiate: as its backward; a further argument is the second output's gradient, channels last, or None.
    """
    return _with_second_output(op, keep, differentiate, lambda x, y: x)


def doubling(op: Op, keep: Callable[..., None], differentiate: Callable[..., Any]) -> TwoOutputs:
    """The op (x, ...) -> y as (x, ...) -> y and y; arguments as of `sharing`."""
    return _with_second_output(op, keep, differentiate, lambda x, y: y)


def _with_second_output(
    op: Op, keep: Callable[..., None], differentiate: Callable[..., Any], second: Callable[[Tensor, Tensor], Tensor]
) -> TwoOutputs:
    """A custom op may not return a tensor twice, nor its input; a Function may.

    There is none where nothing is differentiated, nor under torch.compile, whose backward graph has additions to fuse.
    """

    class Function(torch.autograd.Function):
        """The op and the second output."""

        @staticmethod
        def forward(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
            y = op(x, *others)
            again = second(x, y)
            return y, again.view_as(again)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            keep(ctx, inputs, output[0])
            ctx.set_materialize_grads(False)
            ctx.shape = output[0].shape

        @staticmethod
        def backward(ctx: Any, dy: Any, other: Any) -> Any:
            other = None if other is None else channels_last(other)
            return differentiate(ctx, other.new_zeros(ctx.shape) if dy is None else dy, other)

    def two_outputs(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        if not (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
            y = op(x, *others)
            return y, second(x, y)
        result: tuple[Tensor, Tensor] = Function.apply(x, *others)
        return result

    return two_outputs
