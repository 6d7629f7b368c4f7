"""Levels by a truncated grid (see there): vectors of 64, and the same again by the exact plan where one is in doubt."""

from __future__ import annotations

from collections.abc import Callable

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.compute.truncated_grid import ENTRIES, TruncatedGrid
from tvm_ext.tensor_intrin.byte_table import WIDTH, read_bytes
from tvm_ext.tensor_intrin.spec import Product
from tvm_ext.tensor_intrin.upper_halves import (
    any_lower_half,
    least_halves,
    packed_place,
    sums_towards_zero,
    upper_bytes,
)

_LANES = 16
_HALVES = 2 * _LANES
_MOST = 512


class TruncatedLevels:
    """Emits vectors of levels, and keeps the least lower half that it has met since `begin`."""

    def __init__(self, grid: TruncatedGrid, product: Product, table) -> None:
        self.grid, self.product, self.table = grid, product, table
        self.least = T.alloc_buffer((_HALVES,), "uint16")

    def begin(self) -> None:
        """Forget doubts."""
        T.buffer_store(self.least, T.broadcast(T.uint16(0xFFFF), _HALVES), [T.ramp(0, 1, _HALVES)])

    def _read(self, xs: list[Expr]) -> Expr:
        """uint8 x 64 of four float32 x 16, in the order of `packed_place`."""
        sums = [T.Bind(sums_towards_zero(self.product, x, self.grid.slope, self.grid.offset)) for x in xs]
        if self.grid.doubtful:
            at = T.ramp(0, 1, _HALVES)
            T.buffer_store(self.least, least_halves(self.least[at], sums), [at])
        index = T.Bind(upper_bytes(self.product, sums, self.grid.low))
        return T.Bind(read_bytes(self.product, self.table, ENTRIES, index))

    def in_order(self, xs: list[Expr]) -> Expr:
        """uint8 x 64: the values of four vectors one after the other."""
        places = [packed_place(vector, element) for vector in range(4) for element in range(_LANES)]
        return T.Shuffle([self._read(xs)], places)

    def interleaved(self, xs: list[Expr]) -> Expr:
        """uint8 x 64: byte v of dword n is the value of element n of vector v."""
        places = [packed_place(vector, element) for element in range(_LANES) for vector in range(4)]
        return T.Shuffle([self._read(xs)], places)

    def repeat_if_doubtful(self, again: Callable[[], None]) -> None:
        """`again` writes over all that was written since `begin`."""
        if not self.grid.doubtful:
            return
        with T.If(any_lower_half(self.least[T.ramp(0, 1, _HALVES)], self.grid.doubtful)), T.Then():
            again()


def piece_of(length: int) -> int:
    """Values of a run that are computed before one looks for doubts: whole vectors, and few enough to do them twice."""
    return min(_MOST, length) // WIDTH * WIDTH
