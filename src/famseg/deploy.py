"""A trained network as it predicts fastest: folded, and on a GPU in bfloat16 and replayed as CUDA graphs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famseg.folding import folded
from famseg.recurring import Recurring
from famseg.replay import replayed

Function = Callable[[Tensor], Tensor]


def deployed(model: nn.Module) -> nn.Module:
    """A copy of a network that predicts the same in less time, on the device that the network is on.

    Its batch norms are folded (`famseg.folding`). On a GPU its weights are channels last, it computes in bfloat16, as
    training and its test do, if the GPU can, and images of a shape that comes again are predicted by a CUDA graph. The
    weights are fixed: changed ones may go unnoticed.

    Args:
        model: image (B, C, H, W) -> logits, in evaluation mode.

    Returns:
        Image -> logits, without gradients. A network without parameters, which another runtime runs, stays as it is.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        return model
    network: nn.Module = folded(model).requires_grad_(False)
    if parameter.device.type != "cuda":
        return network
    network = network.to(memory_format=torch.channels_last)
    return Graphed(with_products(network), torch.cuda.is_bf16_supported(including_emulation=False))


class Graphed(nn.Module):
    """Predicts by CUDA graphs, one for each shape of images (`Recurring`): the GPU no longer waits for Python.

    Args:
        network: image -> logits, in evaluation mode, on a GPU.
        narrow: compute in bfloat16.
        most: shapes that are kept.
    """

    def __init__(self, network: nn.Module, narrow: bool, most: int = 4) -> None:
        super().__init__()
        self.network, self.narrow = network, narrow
        self._recurring = Recurring(self._plain, "predicted", self._capture, most)

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes, H, W)."""
        logits: Tensor = self._recurring(image)
        return logits

    def _plain(self, image: Tensor) -> Tensor:
        # a weight that an autocast around this one keeps as bfloat16 would be gone when the graph reads it
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.narrow, cache_enabled=False):
            logits: Tensor = self.network(image)
        return logits

    def _capture(self, function: Function, image: Tensor) -> Function:
        return captured(function, image, [*self.network.parameters(), *self.network.buffers()])


def captured(function: Function, image: Tensor, fixed: Iterable[Tensor]) -> Function:
    """A function of images as a CUDA graph, which leaves out what depends on fixed tensors alone.

    Args:
        function: image -> tensor, by the same operations each time.
        image: of the shape, dtype and device of those to come.
        fixed: tensors that never change, such as weights.

    Raises:
        RuntimeError: it does what a capture forbids.
    """
    once = Once(fixed)

    def without_constants(image: Tensor) -> Tensor:
        with once:
            return function(image)

    return replayed(without_constants, image)


class Product(nn.Conv2d):
    """A 1x1 convolution as the matrix product that it is on channels-last maps.

    cuBLAS adds the bias to the product; cuDNN's convolution takes another launch and pass for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        batch, _, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # of more dimensions, the bias would be a launch of its own
        rows = F.linear(rows, self.weight.flatten(1), self.bias)
        return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Product":
        """The same function with the same parameters."""
        product = cls(conv.in_channels, conv.out_channels, 1, device="meta")
        product.weight, product.bias = conv.weight, conv.bias
        return product.eval()


def with_products(network: nn.Module) -> nn.Module:
    """The network, changed in place: its 1x1 convolutions with a bias are `Product`s."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and child.bias is not None and _is_pointwise(child):
                setattr(module, name, Product.of(child))
    return network


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.padding in (0, (0, 0))


class Once(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does the work on fixed tensors (casts, transposes, sums of weights) in its first pass; later ones find it done.

    All passes must be the same operations in the same order. Work of Triton kernels counts by the operation of
    `torch.library` that launches them.

    Args:
        fixed: tensors that never change.

    Raises:
        RuntimeError: in a pass that writes into a fixed tensor, or into what was made of such.
    """

    def __init__(self, fixed: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fixed = {id(tensor): tensor for tensor in fixed}
        self._results: list[Any] = []
        self._place = 0
        self._first = True

    def __enter__(self) -> "Once":
        self._first, self._place = not self._results, 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, or return what it gave in the first pass."""
        kwargs = kwargs or {}
        if not self._is_fixed(func, args, kwargs):
            return func(*args, **kwargs)
        self._place += 1
        if not self._first and self._results[self._place - 1] is not None:
            return self._results[self._place - 1]
        result = func(*args, **kwargs)
        self._fixed |= {id(leaf): leaf for leaf in tree_leaves(result)}
        if self._first:
            is_view = not _memories(result).isdisjoint(_memories((args, kwargs)))  # costs nothing; made anew each time
            self._results.append(None if is_view else result)
        return result

    def _is_fixed(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func._schema.is_mutable:
            written = [a for a, of in zip(args, func._schema.arguments, strict=False) if of.is_write]
            if any(id(leaf) in self._fixed for leaf in tree_leaves(written)):
                raise RuntimeError(f"{func} writes into a tensor that was to stay fixed")
            return False
        tensors = _tensors((args, kwargs))
        random = torch.Tag.nondeterministic_seeded in func.tags
        return bool(tensors) and not random and all(id(tensor) in self._fixed for tensor in tensors)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _memories(values: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(values)}
