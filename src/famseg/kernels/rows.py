"""What kernels share that need no pixel's neighbours: a channels-last map as rows of channels, cut into tiles."""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.tiles import channels_last, over

PROGRAMS = 528  # partial sums of a map; a constant, so that no result depends on the machine
REGISTERS = 128  # of a thread, so that four programs share a processor; what is granted starts more loads at once


@dataclass(frozen=True)
class Rows:
    """A map (B, C, H, W) as B H W rows of C channels, in tiles of `height` rows and `width` channels."""

    number: int
    channels: int
    height: int
    width: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Programs along the rows and along the channels, if each has one tile."""
        return triton.cdiv(self.number, self.height), self.blocks

    @property
    def channels_argument(self) -> int | tl.constexpr:
        """The channels as a kernel takes them: constant where 8 divides them, not 16, which alone Triton asks a number.

        Else it would load and store them one by one.
        """
        return tl.constexpr(self.channels) if self.channels % 16 == 8 else self.channels

    @property
    def blocks(self) -> int:
        """Of channels."""
        return int(triton.cdiv(self.channels, self.width))

    def chunks(self, programs: int | None = None) -> int:
        """Runs of tiles, for sums: about so many programs in all; None: PROGRAMS."""
        return int(min(self.tiles[0], triton.cdiv(programs or PROGRAMS, self.blocks)))

    @property
    def arguments(self) -> dict[str, int | bool]:
        """What a kernel takes for this cut."""
        even = self.channels % self.width == 0
        return {"ROWS": self.height, "BLOCK_C": self.width, "EVEN": even, "num_warps": 4}


def rows_of(x: Tensor, held: int = 4096, widest: int | None = 64) -> Rows:
    """A map's cut: `held` values in a program, and `widest` channels at most; None: all channels."""
    channels = x.shape[1]
    width = max(2, triton.next_power_of_2(channels))
    width = width if widest is None else min(widest, width)
    return Rows(x.numel() // channels, channels, max(1, held // width), width)


def in_rows(x: Tensor) -> tuple[Tensor, int]:
    """A map (B, C, H, W) whose pixels lie at equal distances, channels side by side, and that distance.

    It is x itself if it is so, as some channels of a channels-last map are; else a copy.
    """
    _, channels, height, width = x.shape
    row = x.stride(3)
    in_place = x.stride() == (height * width * row, 1, width * row, row)
    return (x, row) if in_place else (channels_last(x), channels)


@triton.jit
def rows_at(tile, R, C, c, ROWS: tl.constexpr, EVEN: tl.constexpr):
    """Of a tile's rows and channels c: where they lie from the map's start, in 64 bits, and which exist."""
    row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    return row[:, None] * C + c[None, :], over(row < R, c < C, EVEN)
