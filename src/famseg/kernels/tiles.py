"""What the depthwise kernels share: channels-last maps cut into tiles of patches, and sums of tuples of blocks.

A map (B, C, H, W) lies in memory as (B, H, W, C). A program works on a tile of `groups_h` x `groups_w` groups and
`block_c` channels; a group is a small patch of neighbouring pixels, each with a block of sums of its own, so that a
loaded pixel serves several of them. Blocks are [groups, block_c], float32.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts a map: channels, groups and pixels of a group (all powers of two), and a program's warps.

    `registers`: the most that a thread may have, where a few less let one more program onto a processor.
    """

    block_c: int
    groups_h: int
    groups_w: int
    patch_h: int
    patch_w: int
    warps: int
    registers: int | None = None

    @property
    def height(self) -> int:
        """Of a tile in pixels."""
        return self.groups_h * self.patch_h

    @property
    def width(self) -> int:
        """Of a tile in pixels."""
        return self.groups_w * self.patch_w

    def count(self, x: Tensor) -> tuple[int, int]:
        """Tiles of the pixels of the map (B, C, H, W), and blocks of its channels."""
        b, c, h, w = x.shape
        return b * triton.cdiv(h, self.height) * triton.cdiv(w, self.width), triton.cdiv(c, self.block_c)

    def arguments(self, channels: int) -> dict[str, int | bool | None]:
        """What a kernel takes for its cut of a map of so many channels."""
        return {
            "GROUPS_H": self.groups_h,
            "GROUPS_W": self.groups_w,
            "PATCH_H": self.patch_h,
            "PATCH_W": self.patch_w,
            "BLOCK_C": self.block_c,
            "EVEN": channels % self.block_c == 0,
            "num_warps": self.warps,
            "maxnreg": self.registers,
        }


def channels_last(x: Tensor) -> Tensor:
    """The map (B, C, H, W) as dense (B, H, W, C) memory; copied only where it is not."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_map(x: Tensor, channels: int | None = None, size: Sequence[int] | None = None) -> Tensor:
    """An unwritten channels-last map like x, or of so many channels, or of another height and width."""
    shape = (len(x), x.shape[1] if channels is None else channels, *(x.shape[2:] if size is None else size))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@functools.cache
def lends(device: torch.device, amount: int) -> bool:
    """Whether a GPU can lend a program so many bytes of shared memory; the interpreter can."""
    if device.type != "cuda":
        return True
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0) >= amount


def fit(tile: Tile, channels: int) -> Tile:
    """The tile for a map of few channels: no wider than they need."""
    return replace(tile, block_c=min(tile.block_c, triton.next_power_of_2(channels)))


@triton.jit
def put(values, i: tl.constexpr, value):
    """The tuple with one element exchanged."""
    return values[:i] + (value,) + values[i + 1 :]


@triton.jit
def zeros(count: tl.constexpr, groups: tl.constexpr, block_c: tl.constexpr):
    """A tuple of `count` blocks of zeros."""
    values = ()
    for _ in tl.static_range(count):
        values = values + (tl.zeros((groups, block_c), tl.float32),)  # type: ignore[assignment]
    return values


@triton.jit
def inside(position, length):
    """Where a coordinate is on the map."""
    return (position >= 0) & (position < length)


@triton.jit
def over(pixels, channels, EVEN: tl.constexpr):
    """The mask of a block from those of its pixels and channels; EVEN: all channels exist."""
    return pixels[:, None] if EVEN else pixels[:, None] & channels[None, :]


@triton.jit
def block_of(pointer, mask):
    """A block of the map as float32, zero off the map."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def row_of(pointer, index, C, c, c_mask):
    """Channels c of row `index` of a small (rows, C) tensor as float32 [1, block_c]."""
    return tl.load(pointer + index * C + c, mask=c_mask, other=0.0).to(tl.float32)[None, :]


@triton.jit
def run_of(chunk, chunks, tiles):
    """The first tile of a chunk and the one behind its last: tiles are shared out in order, and evenly to one tile."""
    least, rest = tiles // chunks, tiles % chunks
    begin = chunk * least + tl.minimum(chunk, rest)
    return begin, begin + least + (chunk < rest).to(tl.int32)


@triton.jit
def tile_at(index, H, W, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """The sample and the first row and column of the tile number `index` of all samples' tiles."""
    across = tl.cdiv(W, TILE_W)
    down = tl.cdiv(H, TILE_H)
    row = index // across
    return row // down, row % down * TILE_H, index % across * TILE_W


@triton.jit
def offset_of(b, h, w, H, W, C):
    """Of the pixel's first channel from the map's start, in 64 bits; b, h, w are scalars."""
    return ((b.to(tl.int64) * H + h) * W + w) * C
