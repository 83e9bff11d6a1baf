"""BiSeNet V2: a wide, shallow branch for detail and a narrow, deep one for meaning (arXiv 2004.02147)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.layers.options import require_numbers
from famseg.layers.resize import resize
from famseg.models.images import cropped, padded, require_batch


def _conv(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = False
) -> nn.Sequential:
    """Convolution, batch norm and, on request, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Stem(nn.Module):
    """Quarters the image twice over: a strided convolution beside a pooling, stacked (paper, Fig. 4a)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, out_channels, stride=2, relu=True)
        self.strided = nn.Sequential(
            _conv(out_channels, out_channels // 2, 1, relu=True),
            _conv(out_channels // 2, out_channels, stride=2, relu=True),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = _conv(2 * out_channels, out_channels, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 4, W / 4)."""
        x = self.first(x)
        y: Tensor = self.fuse(torch.cat([self.strided(x), self.pool(x)], dim=1))
        return y


class GatherExpand(nn.Module):
    """Gather-and-expansion layer (paper, Fig. 5): y = relu(main(x) + side(x)).

    main = 3x3, a depthwise 3x3 that expands six times (two of them with stride 2), 1x1. side = the identity, or with
    stride 2 a depthwise 3x3 and 1x1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        hidden = 6 * in_channels
        down = [_conv(hidden, hidden, groups=hidden)] if stride == 2 else []
        self.main = nn.Sequential(
            _conv(in_channels, in_channels, relu=True),
            _conv(in_channels, hidden, stride=stride, groups=in_channels),
            *down,
            _conv(hidden, out_channels, 1),
        )
        self.side: nn.Module = nn.Identity()
        if stride == 2:
            depthwise = _conv(in_channels, in_channels, stride=2, groups=in_channels)
            self.side = nn.Sequential(depthwise, _conv(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        return F.relu(self.main(x) + self.side(x))


class ContextEmbedding(nn.Module):
    """Adds what the whole map has in common to every position (paper, Fig. 4b): conv3x3(x + conv1x1(norm(mean(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.embed = _conv(channels, channels, 1, relu=True)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        y: Tensor = self.mix(x + self.embed(self.norm(x.mean((2, 3), keepdim=True))))
        return y


class GuidedAggregation(nn.Module):
    """Each branch, at both of their resolutions, is gated by the other one (paper, Fig. 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        separable = [_conv(channels, channels, groups=channels), nn.Conv2d(channels, channels, 1, bias=False)]
        self.detail = nn.Sequential(*separable)
        self.detail_down = nn.Sequential(_conv(channels, channels, stride=2), nn.AvgPool2d(3, stride=2, padding=1))
        separable = [_conv(channels, channels, groups=channels), nn.Conv2d(channels, channels, 1, bias=False)]
        self.meaning = nn.Sequential(*separable)
        self.meaning_up = _conv(channels, channels)
        self.mix = _conv(channels, channels)

    def forward(self, detail: Tensor, meaning: Tensor) -> Tensor:
        """Detail (B, channels, H / 8, W / 8) and meaning (B, channels, H / 32, W / 32) -> like detail."""
        size = detail.shape[-2:]
        fine = self.detail(detail) * resize(self.meaning_up(meaning), size).sigmoid()
        coarse = self.detail_down(detail) * self.meaning(meaning).sigmoid()
        y: Tensor = self.mix(fine + resize(coarse, size))
        return y


def _head(in_channels: int, width: int, num_classes: int) -> nn.Sequential:
    """Segmentation head (paper, Fig. 7), upsampled by the network."""
    return nn.Sequential(_conv(in_channels, width, relu=True), nn.Conv2d(width, num_classes, 1))


class BiSeNetV2(nn.Module):
    """Image -> logits; in training also the logits of four booster heads, for the loss to see (paper, section 4.4).

    Any height and width from 32 px: inside, the image's border is repeated up to a multiple of 32, and the logits are
    cropped back.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits.
        head_width: hidden channels of the head.
        booster_width: hidden channels of the booster heads on the semantic branch, at strides 4, 8, 16, 32; 0: none.

    Raises:
        UserError: an impossible value; in `forward`, an image of other channels or smaller than 32 px, or a batch of
            one in training.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 3, head_width: int = 1024, booster_width: int = 128
    ) -> None:
        super().__init__()
        require_numbers(1, in_channels=in_channels, num_classes=num_classes, head_width=head_width)
        require_numbers(0, booster_width=booster_width)
        self.in_channels = in_channels
        self.detail = nn.Sequential(
            _conv(in_channels, 64, stride=2, relu=True),
            _conv(64, 64, relu=True),
            _conv(64, 64, stride=2, relu=True),
            _conv(64, 64, relu=True),
            _conv(64, 64, relu=True),
            _conv(64, 128, stride=2, relu=True),
            _conv(128, 128, relu=True),
            _conv(128, 128, relu=True),
        )
        self.stages = nn.ModuleList([Stem(in_channels, 16)])
        for narrow, wide, depth in ((16, 32, 2), (32, 64, 2), (64, 128, 4)):
            layers = [GatherExpand(narrow if i == 0 else wide, wide, 2 if i == 0 else 1) for i in range(depth)]
            self.stages.append(nn.Sequential(*layers))
        self.context = ContextEmbedding(128)
        self.aggregate = GuidedAggregation(128)
        self.head = _head(128, head_width, num_classes)
        boosted = (16, 32, 64, 128) if booster_width else ()
        self.boosters = nn.ModuleList(_head(width, booster_width, num_classes) for width in boosted)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, H, W), H and W >= 32 -> logits (B, num_classes, H, W).

        In training with boosters: a tuple of the logits and those of the boosters, all of this shape.
        """
        x = padded(image, self.in_channels)
        if self.training:
            require_batch(image, "BiSeNet V2")
        maps = []
        y = x
        for stage in self.stages:
            y = stage(y)
            maps.append(y)
        outputs = [self.head(self.aggregate(self.detail(x), self.context(y)))]
        if self.training:
            outputs += [booster(y) for booster, y in zip(self.boosters, maps, strict=False)]
        size = x.shape[-2:]
        logits = tuple(cropped(resize(output, size), image) for output in outputs)
        return logits if len(logits) > 1 else logits[0]
