"""Square transposes of float32 tiles by vector shuffles: feature-major sums become rows. The same for every ISA.

Within groups of four vectors, 4x4 tiles are transposed inside each 128-bit lane by two rounds of interleaving; then
whole lanes are interleaved across groups. LLVM selects unpck, vpermt2 and shuf on x86, zip on AArch64.
"""

from __future__ import annotations

import functools

from tvm import s_tir
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

_PIECE = 4
"""float32 elements of a 128-bit lane."""


@functools.cache
def transpose_intrin(lanes: int) -> str:
    """Name of the intrinsic that transposes a tile of `lanes` x `lanes` (4, 8 or 16); registered by the first call."""
    name = f"lut_transpose_{lanes}"
    s_tir.TensorIntrin.register(name, transpose_desc(lanes), transpose_impl(lanes))
    return name


def transpose_desc(lanes: int) -> PrimFunc:
    """``out[n, m] = tile[m, n]``, rows of both at any distance."""

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle):
        tile_stride, out_stride = T.int32(), T.int32()
        tile = T.match_buffer(a, (lanes, lanes), "float32", strides=[tile_stride, 1], offset_factor=1)
        out = T.match_buffer(b, (lanes, lanes), "float32", strides=[out_stride, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads(tile[0:lanes, 0:lanes])
            T.writes(out[0:lanes, 0:lanes])
            for n, m in T.grid(lanes, lanes):
                with T.sblock("transpose"):
                    vn, vm = T.axis.remap("SS", [n, m])
                    out[vn, vm] = tile[vm, vn]

    return desc


def transpose_impl(lanes: int) -> PrimFunc:
    """Loads, `lanes` * log2(`lanes`) shuffles, stores."""
    vector = f"float32x{lanes}"

    def emit(tile, out) -> None:
        rows = [T.Bind(tile.vload([m, 0], vector)) for m in range(lanes)]
        for n, column in enumerate(transposed(rows)):
            T.buffer_store(out, column, [n, T.ramp(0, 1, lanes)])

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle):
        tile_stride, out_stride = T.int32(), T.int32()
        tile = T.match_buffer(a, (lanes, lanes), "float32", strides=[tile_stride, 1], offset_factor=1)
        out = T.match_buffer(b, (lanes, lanes), "float32", strides=[out_stride, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads(tile[0:lanes, 0:lanes])
            T.writes(out[0:lanes, 0:lanes])
            emit(tile, out)

    return impl


def transposed(rows: list[Expr]) -> list[Expr]:
    lanes = len(rows)
    # lane b of columns[4 * g + j] is column 4 * b + j of rows 4 * g .. 4 * g + 3
    columns = [c for g in range(0, lanes, _PIECE) for c in four_by_four(rows[g : g + _PIECE], lanes)]
    groups = lanes // _PIECE
    result: list[Expr] = [rows[0]] * lanes
    for j in range(_PIECE):
        for b, column in enumerate(_interleave_lanes([columns[_PIECE * g + j] for g in range(groups)], lanes)):
            result[_PIECE * b + j] = column
    return result


def four_by_four(rows: list[Expr], lanes: int) -> list[Expr]:
    """The 4x4 tile in each 128-bit lane of four rows, transposed."""
    starts = range(0, lanes, _PIECE)

    def pick(a, b, first: list[int]) -> Expr:
        # of each lane: elements of a (0..3) and b (4..7)
        order = [s + e if e < _PIECE else lanes + s + e - _PIECE for s in starts for e in first]
        return T.Bind(T.Shuffle([a, b], order))

    low = [pick(rows[i], rows[i + 1], [0, 4, 1, 5]) for i in (0, 2)]
    high = [pick(rows[i], rows[i + 1], [2, 6, 3, 7]) for i in (0, 2)]
    return [pick(*pair, half) for pair in (low, high) for half in ([0, 1, 4, 5], [2, 3, 6, 7])]


def _interleave_lanes(vectors: list[Expr], lanes: int) -> list[Expr]:
    """Result b holds lane b of every vector, in their order."""
    if len(vectors) == 1:
        return vectors
    half = len(vectors) // 2

    def merge(a, b, low: bool) -> Expr:
        first = 0 if low else lanes // 2
        order = []
        for start in range(first, first + lanes // 2, _PIECE):
            order += [start + i for i in range(_PIECE)] + [lanes + start + i for i in range(_PIECE)]
        return T.Bind(T.Shuffle([a, b], order))

    # a perfect shuffle of 2^k vectors, k times, transposes them
    merged = [merge(vectors[i], vectors[i + half], low) for i in range(half) for low in (True, False)]
    if half == 1:
        return merged
    return [merge(merged[i], merged[i + half], low) for i in range(half) for low in (True, False)]
