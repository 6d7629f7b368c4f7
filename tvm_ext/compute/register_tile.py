"""How many rows and outputs of a matmul or convolution are summed at once in a core's vector registers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VectorUnit:
    """A core's float32 vectors.

    Parameters
    ----------
    lanes : float32 values in a register.
    registers : how many there are.
    broadcasts : whether a multiply-add can take one scalar from memory for all lanes, so that it needs no register.
    """

    lanes: int
    registers: int
    broadcasts: bool = False

    def holds(self, rows: int, vectors: int) -> bool:
        """Whether the sums of a tile, and one row of its weights, fit into the registers."""
        return vectors * (rows + 1) + (0 if self.broadcasts else 1) < self.registers + (0 if self.broadcasts else 1)


@dataclass(frozen=True)
class RegisterTile:
    """`height` x `width` rows by `vectors` vectors of `lanes` outputs.

    A matmul has a height of 1. In a convolution the height counts lines of pixels, and is 1 unless the tile's width is
    the whole line.
    """

    height: int
    width: int
    vectors: int
    lanes: int

    @property
    def outputs(self) -> int:
        return self.vectors * self.lanes

    @property
    def on_stack(self) -> bool:
        """Whether TVM puts the sums on the stack. Otherwise they live in memory that LLVM takes for shared, and leave
        the registers in every loop but the innermost, and where anything else is called."""
        return self.height * self.width * self.outputs * 4 < _STACK_BYTES


_STACK_BYTES = 1024
_CACHE_BYTES = 32
"""Weights that arrive from the second-level cache in a cycle."""
_MEMORY_BYTES = 7
"""Weights that arrive from behind that cache in a cycle (28 GB/s at 4 GHz)."""
_RESIDENT_BYTES, _TWO_BLOCKS_BYTES = 1 << 20, 3 << 19
"""Weights that are still in that cache when the next run of a network begins, and those of two blocks of outputs of
which the second comes while the first is in use."""
_AHEAD_SHARE = 0.2
"""Of the time in which weights arrive, what is waited for although they are fetched ahead (measured)."""
FEW_PASSES = 4
"""Tiles that read a block of weights, from which on the next block is fetched ahead."""
_LATENCY = 4
"""Cycles until the sum of a multiply-add can be added to again."""
_SCALAR_STORE = 2
"""Cycles that an output takes where vectors do not fit the number of outputs."""


def choose_tile(
    unit: VectorUnit, height: int, width: int, outputs: int, depth: int, *, on_stack: bool = False
) -> RegisterTile:
    """The tile that takes the fewest cycles for `height` lines of `width` rows, `outputs` outputs, sums of `depth`.

    on_stack : only tiles that are; for sums of short inner loops.
    """
    shapes = [(1, w) for w in range(1, min(width, unit.registers) + 1)]
    shapes += [(h, width) for h in range(2, min(height, unit.registers // width) + 1)]
    tiles = [
        RegisterTile(h, w, vectors, lanes)
        for h, w in shapes
        for lanes in (unit.lanes, unit.lanes // 2, unit.lanes // 4)
        if lanes
        for vectors in range(1, unit.registers // 2 + 1)
        if unit.holds(h * w, vectors)
    ]
    if on_stack:
        tiles = [tile for tile in tiles if tile.on_stack]
    return min(tiles, key=lambda tile: (_cycles(tile, height, width, outputs, depth), -tile.height * tile.width))


def _cycles(tile: RegisterTile, height: int, width: int, outputs: int, depth: int) -> float:
    rows = tile.height * tile.width
    step = max(
        rows * tile.vectors / 2, (rows + tile.vectors) / 2, tile.vectors * tile.lanes * 4 / _CACHE_BYTES, _LATENCY
    )  # two multiply-adds and two loads a cycle
    blocks = -(-outputs // tile.outputs)
    scalars = height * width * outputs if outputs % tile.lanes else 0
    ends = 2 * _LATENCY + rows * tile.vectors / 2
    sums, passes = blocks * (depth * step + ends), -(-height // tile.height) * -(-width // tile.width)
    waiting = 0.0
    if outputs * depth * 4 > _RESIDENT_BYTES:
        memory = outputs * depth * 4 / _MEMORY_BYTES
        ahead = passes >= FEW_PASSES and 2 * tile.outputs * depth * 4 <= _TWO_BLOCKS_BYTES
        # what is not fetched ahead comes in the first pass
        waiting = memory * _AHEAD_SHARE if ahead else max(0.0, memory - sums)
    return passes * sums + waiting + scalars * _SCALAR_STORE
