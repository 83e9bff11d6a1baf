"""FAMSeg's decoder."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from famseg.kernels import use_triton
from famseg.layers.basic import ConvNorm, conv_norm, convolved
from famseg.layers.resize import stacked
from famseg.streams import forked


class Decoder(nn.Module):
    """Upsamplings by 2 with a convolution after each (paper section 3.3), and the 1x1 head.

    The first two fuse f3, and f2 with the context: the encoder's last three layers. Without `refine` there is no
    convolution at full resolution, and the last upsampling's reduction is the head: it carries logits.

    Args:
        encoder_widths: of the encoder's maps.
        widths: after the neck and after each upsampling.
        upsamplings: modules widths[i] -> widths[i + 1] channels; the last one -> num_classes without `refine`.
        context: f2, f3, f4 -> a map like f2; None decodes from f4 alone.
        context_width: channels of the context.
        num_classes: channels of the logits.
        refine: a convolution at full resolution.
        backend: of convolutions' ends and the head: "auto", "torch" or "triton", see `famseg.kernels`.
    """

    def __init__(
        self,
        encoder_widths: Sequence[int],
        widths: Sequence[int],
        upsamplings: Sequence[nn.Module],
        context: nn.Module | None,
        context_width: int,
        num_classes: int,
        refine: bool,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.context, self.backend = context, backend
        self.neck = conv_norm(encoder_widths[3], widths[0], backend=backend)
        self.upsamplings = nn.ModuleList(upsamplings)
        fused = [0] * len(upsamplings)
        if context is not None:
            fused[:2] = encoder_widths[2], encoder_widths[1] + context_width
        inputs = [width + more for width, more in zip(widths[1:], fused, strict=True)]
        convs = [conv_norm(wide, width, 3, backend=backend) for wide, width in zip(inputs, widths[1:], strict=True)]
        self.convs = nn.ModuleList(convs if refine else [*convs[:-1], nn.Identity()])
        self.head = nn.Conv2d(widths[-1], num_classes, 1) if refine else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's four maps -> (B, num_classes, H, W)."""
        fused: list[Callable[[], list[Tensor]]] = [list for _ in self.convs]
        if self.context is not None:
            context = forked(self._context, *maps[1:])
            fused[:2] = lambda: [maps[2]], lambda: [maps[1], context()]
        x: Tensor = self.neck(maps[3])
        steps: list[Callable[[Tensor], Tensor]] = [*list(self.convs)[:-1], self._logits]
        for upsample, others, step in zip(self.upsamplings, fused, steps, strict=True):
            x = upsample(x)
            more = others()
            x = step(stacked([x, *more], self.backend) if more else x)
        return x

    def _context(self, *maps: Tensor) -> Tensor:
        return cast(Tensor, cast(nn.Module, self.context)(maps))

    def _logits(self, x: Tensor) -> Tensor:
        """The last convolution and the head; in training the kernels make norm, GELU and head one."""
        conv = self.convs[-1]
        if not (isinstance(self.head, nn.Conv2d) and use_triton(self.backend, x)):
            return cast(Tensor, self.head(conv(x)))
        from famseg.kernels import head, norm_head  # Triton is imported where it runs

        last, weight, bias = cast(ConvNorm, conv), self.head.weight.flatten(1), cast(Tensor, self.head.bias)
        x = convolved(x, cast(nn.Conv2d, last[0]), self.backend)
        if norm_head.suits(last[1], x, len(weight)):
            return norm_head.norm_head(x, cast(nn.BatchNorm2d, last[1]), weight, bias)
        x = last.after_conv(x)
        return cast(Tensor, head.head(x, weight, bias) if head.suits(x, len(weight)) else self.head(x))
