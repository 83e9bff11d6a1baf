"""What kernels share that walk along lines of pixels, rows or columns, with a window of the last ones in registers.

A tile is a few neighbouring lines times a run of pixels. A thread keeps two channels of one line: fewer would leave
loads of two bytes, more would not leave registers for a window and a sum for each tap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

RUNS = (64, 32, 16, 8)  # pixels of a tile along its lines
START = 5  # the start of a tile takes about as long as so many pixels


@dataclass(frozen=True)
class Walk:
    """How a kernel cuts a map.

    `lines`: of a tile.
    `step`: pixels between two jumps of the loop, loaded before the first of them is stored; divides all RUNS.
    `programs`: at most about so many, each with a chunk of the tiles; a constant, so that no result depends on the
    machine.
    `registers`: the most that a thread may have.
    """

    lines: int
    step: int
    programs: int
    registers: int | None = None
    warps: int = 4
    block_c: int = 32

    def share(self, x: Tensor, ways: Sequence[bool], parts: int = 1) -> tuple[int, int, int]:
        """The run whose longest program is the shortest, chunks, and blocks of the channels of the map x.

        Args:
            x: (B, C, H, W).
            ways: for each launch whether it walks along the columns; all have as many chunks.
            parts: programs for each chunk and block.
        """
        b, c, h, w = x.shape
        blocks = triton.cdiv(c, self.width(c))
        most = max(1, self.programs // (blocks * parts))
        sides = [(w, h) if upright else (h, w) for upright in ways]  # across and along

        def tiles(run: int) -> list[int]:
            return [b * triton.cdiv(across, self.lines) * triton.cdiv(along, run) for across, along in sides]

        def longest(run: int) -> int:
            numbers = zip(tiles(run), sides, strict=True)
            return sum(triton.cdiv(n, min(n, most)) * (min(run, along) + START) for n, (_, along) in numbers)

        run = min(RUNS, key=longest)
        return run, min(most, *tiles(run)), blocks

    def width(self, channels: int) -> int:
        """Channels of a program, for a map of so many; 16 at the least, since every width takes seconds to compile."""
        return int(min(self.block_c, max(16, triton.next_power_of_2(channels))))

    def arguments(self, channels: int) -> dict[str, int | bool | None]:
        """What a kernel takes for its cut of a map of so many channels."""
        width = self.width(channels)
        return {
            "LINES": self.lines,
            "STEP": self.step,
            "BLOCK_C": width,
            "EVEN": channels % width == 0,
            "num_warps": self.warps,
            "maxnreg": self.registers,
        }


@triton.jit
def four_of(blocks, first: tl.constexpr):
    """Four of the blocks (lines, block_c) as one (lines, block_c, 4): their sums take one exchange between warps."""
    even, odd = tl.join(blocks[first], blocks[first + 2]), tl.join(blocks[first + 1], blocks[first + 3])
    both = tl.join(even, odd)
    return tl.reshape(both, (both.shape[0], both.shape[1], 4))
