"""All weights that autocast casts, cast in a few launches, and their gradients cast back in a few.

Autocast casts each weight where it is used, autograd each gradient where it arises: in a step of FAMSeg-T 276 launches
of 2 to 3 us on next to no data. The numbers stay those of autocast: the same weights are rounded once, and so are their
gradients.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PrecastWeights:
    """Calls a network under autocast so that it finds its weights cast already.

    The first call with gradients is a plain one, which shows what autocast casts: a parameter that is cast and used in
    no other way. From the second on these are cast together before the network runs. Without autocast or gradients all
    calls are plain ones; so are those of a network with gradient checkpointing, whose second forward pass in backward
    would find other weights than its first. A weight used twice is cast once, as by autocast with its cache.

    Args:
        model: any network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._names: list[str] | None = [] if recomputes(model) else None  # of what is cast; None: not known yet

    def __call__(self, image: Tensor) -> Any:
        """What `model(image)` gives."""
        device, names = image.device.type, self._names
        if names == [] or not (torch.is_grad_enabled() and torch.is_autocast_enabled(device)):
            return self.model(image)
        dtype = torch.get_autocast_dtype(device)
        if names is None:
            with _Casts(self.model, dtype) as casts:
                result = self.model(image)
            self._names = casts.names()
            return result
        weights = _CastTogether.apply(dtype, *map(self.model.get_parameter, names))
        return functional_call(self.model, dict(zip(names, weights, strict=True)), image)


def recomputes(model: nn.Module) -> bool:
    """Whether backward repeats parts of forward (gradient checkpointing)."""
    return any(getattr(module, "checkpointing", False) for module in model.modules())


class _CastTogether(torch.autograd.Function):
    """Tensors (dtype, *weights) -> the weights in this dtype; gradients come back in the weights' own."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        ctx.set_materialize_grads(False)
        return tuple(_cast(weights, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = iter(_cast([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(wide) for grad in grads)


def _cast(tensors: Any, dtype: torch.dtype) -> list[Tensor]:
    results = [torch.empty_like(t, dtype=dtype) for t in tensors]
    torch._foreach_copy_(results, list(tensors))
    return results


class _Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees how parameters are used."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype
        trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad and p.dtype == torch.float32)
        self._parameters = {id(p): name for name, p in trained}
        self._is_cast: dict[str, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_cast = func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == self._dtype
        for leaf in tree_leaves((args, kwargs)):
            name = self._parameters.get(id(leaf))
            if name is not None:
                self._is_cast[name] = is_cast and self._is_cast.get(name, True)
        return func(*args, **kwargs)

    def names(self) -> list[str]:
        """Of the parameters that were cast to the dtype and used in no other way."""
        return [name for name, is_cast in self._is_cast.items() if is_cast]
