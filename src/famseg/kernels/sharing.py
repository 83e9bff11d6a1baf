"""A map that two layers read, without a launch that adds its two gradients.

Autograd adds them in a pass of its own. Here the layer that is first hands the map on to the second,

    y, x = op_shared(x, ...);    z = other(x)

so that backward comes to it with the gradients of y and of the x it has handed on: its kernel adds the latter as it
writes dx, in float32, rounded once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def sharing(
    op: Callable[..., Tensor], keep: Callable[..., None], differentiate: Callable[..., Any]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op (x, ...) -> y as (x, ...) -> y and x itself.

    A custom op may not return its input, a Function may. Where nothing is differentiated there is none, nor under
    torch.compile, whose backward graph has additions to fuse.

    Args:
        op: takes x first.
        keep: as `setup_context` of `torch.library.register_autograd`.
        differentiate: as its backward; the gradient of x to be added, or None, is a further argument.
    """

    class Shared(torch.autograd.Function):
        """Both as outputs."""

        @staticmethod
        def forward(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
            return op(x, *others), x.view_as(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            keep(ctx, inputs, output[0])
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, dy: Tensor | None, other: Tensor | None) -> Any:
            if dy is None:  # y is not used
                return other, *(None for _ in ctx.needs_input_grad[1:])
            return differentiate(ctx, dy, other)

    def shared(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if not differentiated or torch.compiler.is_compiling():
            return op(x, *others), x
        result: tuple[Tensor, Tensor] = Shared.apply(x, *others)
        return result

    return shared
