"""Draw a FAMSeg network as SVG: `python docs/figures/network.py [--size T] [--out FILE]`.

Channels, strides, kernels and the number of blocks are read from the module; the strides are those of the maps that
its layers really give for an image.
"""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.residual import BottleBlock, ConvolutionBlock
from famseg.layers.strip import StripBlock
from famseg.models import SIZES, FAMSeg

WIDTH, HEIGHT = 1180, 742
ENCODER, CONTEXT, DECODER = 130, 462, 880  # left edges of the columns
BOX = 270  # width of the encoder's and the decoder's boxes
ROWS = {1: 56, 2: 156, 4: 256, 8: 358, 16: 512, 32: 632}  # stride -> top of its boxes
TALL = {8: 118, 16: 84, 32: 84}  # heights; the others: LOW
LOW = 66
TINTS = {"encoder": ("#e8f0fb", "#2f5f9e"), "context": ("#f1eafa", "#6b3fa0"), "decoder": ("#e6f4ec", "#23784a")}
TINTS |= {"plain": ("#f4f4f4", "#555555")}
STYLE = "text{font-family:Helvetica,Arial,sans-serif;fill:#1d2430;font-size:12.5px}"
STYLE += (
    ".title{font-weight:bold;font-size:14px}.map{font-weight:bold;text-anchor:end}.small{font-size:12px;fill:#4a5361}"
)
STYLE += ".head{font-weight:bold;font-size:18px}.stride{fill:#7a8391;text-anchor:end}.middle{text-anchor:middle}"


def draw(model: FAMSeg, name: str) -> str:
    """The network as SVG.

    Args:
        model: which; its mode is changed to evaluation.
        name: for the heading.
    """
    maps = _maps(model)
    parts = [*_strides(), *_encoder(model, maps), *_decoder(model, maps)]
    if model.decoder.context is not None:
        parts += _context(model.decoder.context, maps)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    heading = f"FAMSeg-{name}, {millions:.1f} million parameters"
    colours = dict.fromkeys(edge for _, edge in TINTS.values())
    heads = [
        f'<marker id="to{edge[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{edge}"/></marker>'
        for edge in colours
    ]
    opening = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<title>{escape(heading)}</title><style>{STYLE}</style><defs>{''.join(heads)}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(ENCODER, 32, heading, "head"),
    ]
    return "\n".join([*opening, *parts, "</svg>"]) + "\n"


def _maps(model: FAMSeg) -> dict[str, tuple[int, int]]:
    """Module name -> channels and stride of the map that it gives."""
    side, found = 64, {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                found[name] = (output.shape[1], side // output.shape[2])

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, model.in_channels, side, side))
    for hook in hooks:
        hook.remove()
    return found


def _encoder(model: FAMSeg, maps: dict[str, tuple[int, int]]) -> list[str]:
    sizes = ["any height and width from 32 px,", "padded inside to a multiple of 32"]
    stem = [_convolution(conv, *maps[f"encoder.stem.{i}.1"]) for i, conv in enumerate(model.encoder.stem)]
    parts = [
        _box(ENCODER, ROWS[1], BOX, LOW, "plain", "image", model.in_channels, sizes),
        _box(ENCODER, ROWS[2], BOX, LOW, "encoder", "stem", maps["encoder.stem.1"][0], stem),
        _arrow([(ENCODER + BOX / 2, ROWS[1] + LOW), (ENCODER + BOX / 2, ROWS[2])], "plain"),
    ]
    bottom = ROWS[2] + LOW
    for i, stage in enumerate(model.encoder.stages):
        channels, stride = maps[f"encoder.stages.{i}.{len(stage) - 1}"]  # of its norm
        top, height = ROWS[stride], TALL.get(stride, LOW)
        title = f"stage {i + 1}" + (f" → f{i + 1}" if i else "")
        parts.append(_box(ENCODER, top, BOX, height, "encoder", title, channels, _blocks(stage)))
        parts.append(_arrow([(ENCODER + BOX / 2, bottom), (ENCODER + BOX / 2, top)], "encoder"))
        bottom = top + height
    return parts


def _convolution(layers: Sequence[nn.Module], channels: int, stride: int) -> str:
    """A convolution of the stem, and where its map lies: they are the only two in one box."""
    size, step = layers[0].kernel_size[0], layers[0].stride[0]
    return f"{size}×{size} convolution, stride {step} → {channels} at H/{stride}"


def _blocks(stage: Sequence[nn.Module]) -> list[str]:
    """What a stage consists of, line by line."""
    kinds = {kind: [block for block in stage if isinstance(block, kind)] for kind in (BottleBlock, StripBlock)}
    lines = ["ConvolutionBlock, stride 2"] if any(isinstance(block, ConvolutionBlock) for block in stage) else []
    if bottles := kinds[BottleBlock]:
        shortcut = bottles[0].shortcut
        ways = f"Mamba2D, {shortcut.orders * shortcut.ways} directions" if isinstance(shortcut, Mamba2D) else "identity"
        lines.append(f"{len(bottles)} × BottleBlock ({ways})")
    strips = kinds[StripBlock]
    kernels = ", ".join(str(conv.kernel_size[1]) for conv in strips[0].attention.rows)
    return [*lines, f"{len(strips)} × StripBlock (5×5; strips {kernels})"]


def _decoder(model: FAMSeg, maps: dict[str, tuple[int, int]]) -> list[str]:
    decoder, middle = model.decoder, DECODER + BOX / 2
    fused = {16: ["f3"], 8: ["f2", "context"]} if decoder.context is not None else {}
    channels, stride = maps["decoder.neck"]
    below = ROWS[stride]
    neck = ["1×1 convolution, norm, GELU", *([] if fused else ["f4 alone: no fusion"])]
    parts = [_box(DECODER, below, BOX, TALL[stride], "decoder", "neck", channels, neck), _skip(stride, "f4")]
    for i, (upsample, conv) in enumerate(zip(decoder.upsamplings, decoder.convs, strict=True)):
        convolves = not isinstance(conv, nn.Identity)
        channels, stride = maps[f"decoder.{'convs' if convolves else 'upsamplings'}.{i}"]
        lines = [_upsampling(upsample)]
        if others := fused.get(stride):
            lines.append(f"stacked with {' and '.join(others)}")
            parts.append(_skip(stride, others[0]))
        lines += ["3×3 convolution, norm, GELU"] * convolves
        top, height = ROWS[stride], TALL.get(stride, LOW)
        parts.append(_box(DECODER, top, BOX, height, "decoder", f"upsampling {i + 1}", channels, lines))
        parts.append(_arrow([(middle, below), (middle, top + height)], "decoder"))
        below = top
    return [*parts, *_logits(decoder.head, channels)]


def _logits(head: nn.Module, channels: int) -> list[str]:
    left, top = DECODER - 300, ROWS[1]
    lines = ["1×1 convolution"] if isinstance(head, nn.Conv2d) else ["the last upsampling carries them"]
    channels = head.out_channels if isinstance(head, nn.Conv2d) else channels
    box = _box(left, top, 214, LOW, "plain", "logits", channels, [*lines, "cropped to the image's size"])
    return [box, _arrow([(DECODER, top + LOW / 2), (left + 214, top + LOW / 2)], "decoder")]


def _skip(stride: int, label: str) -> str:
    """From the encoder straight to the decoder."""
    y = ROWS[stride] + TALL[stride] - 18
    return _arrow([(ENCODER + BOX, y), (DECODER, y)], "encoder", label)


def _upsampling(module: nn.Module) -> str:
    if isinstance(module, FeatureAwareUpsample):
        return f"FAM ×2: K = {module.kernel}, Cd = {module.compress.out_channels}"
    return f"{module.mode} ×2"


def _context(context: nn.Sequential, maps: dict[str, tuple[int, int]]) -> list[str]:
    aggregate, burger = context
    top, width, gap = ROWS[8], 178, 22
    right = CONTEXT + width + gap
    levels = ", ".join(str(level.out_channels) for level in aggregate.levels)
    side = aggregate.depthwise.kernel_size[0]
    first = [f"1×1 to {levels}", f"stack at the size of f2, {side}×{side}", "depthwise, GELU, 1×1"]
    second = [f"NMF of rank {burger.ham.basis.shape[1]},", f"{burger.ham.train_steps} steps in training,"]
    second.append(f"{burger.ham.eval_steps} in evaluation")
    parts = [
        _box(CONTEXT, top, width, 84, "context", "aggregate", maps["decoder.context.0"][0], first),
        _box(right, top, width, 84, "context", "Hamburger", maps["decoder.context.1"][0], second),
        _arrow([(CONTEXT + width, top + 42), (right, top + 42)], "context"),
        _arrow([(right + width, top + 42), (DECODER, top + 42)], "context"),
        _arrow([(ENCODER + BOX, top + 26), (CONTEXT, top + 26)], "context", "f2"),
    ]
    for row, x in ((16, CONTEXT + 50), (32, CONTEXT + 110)):
        y = ROWS[row] + 24
        parts.append(_arrow([(ENCODER + BOX, y), (x, y), (x, top + 84)], "context", f"f{3 if row == 16 else 4}"))
    return parts


def _strides() -> list[str]:
    return [_text(ENCODER - 18, top + 21, "H × W" if stride == 1 else f"H/{stride} × W/{stride}", "stride")
            for stride, top in ROWS.items()]  # fmt: skip


def _box(x: float, y: float, w: float, h: float, tint: str, title: str, channels: int, lines: Sequence[str]) -> str:
    fill, edge = TINTS[tint]
    count = f"{channels} channel{'s' * (channels > 1)}" if w > 200 else str(channels)
    texts = [_text(x + 12, y + 21, title, "title"), _text(x + w - 12, y + 21, count, "map")]
    texts += [_text(x + 12, y + 41 + 16.5 * i, line, "small") for i, line in enumerate(lines)]
    shape = f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" stroke="{edge}" stroke-width="1.4"/>'
    return "\n".join([shape, *texts])


def _arrow(points: Sequence[tuple[float, float]], tint: str, label: str = "") -> str:
    edge = TINTS[tint][1]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    line = f'<path d="{path}" fill="none" stroke="{edge}" stroke-width="1.6" marker-end="url(#to{edge[1:]})"/>'
    return line + (_text(points[0][0] + 16, points[0][1] - 6, label, "small middle") if label else "")


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(text)}</text>'


def main() -> None:
    """Write docs/figures/network.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES], default="T")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("network.svg"))
    options = parser.parse_args()
    options.out.write_text(draw(FAMSeg(**SIZES[options.size]), options.size), encoding="utf-8")


if __name__ == "__main__":
    main()
