"""Rows of 16 bytes, regrouped for dot products of dwords: dword j of every row side by side. For every ISA.

Rows are stored so that lane l of vector r is row 4 * l + r; then a 4x4 transpose of dwords inside every 128-bit lane
puts them in order.
"""

from __future__ import annotations

import functools

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.transpose import four_by_four

_ELEMENTS = {"uint8": 16, "int8": 16, "int16": 8}
"""Of 16 bytes."""


@functools.cache
def regroup_intrin(dtype: str, count: int) -> str:
    """Name of the intrinsic for `count` (8 or 16) rows of "uint8", "int8" or "int16"; registered by the first call."""
    name = f"lut_regroup_{count}_{dtype}"
    s_tir.TensorIntrin.register(name, regroup_desc(dtype, count), regroup_impl(dtype, count))
    return name


def regroup_desc(dtype: str, count: int) -> PrimFunc:
    """``out[j, 4 * l + r, i] = rows[r, l, depth * j + i]``, with `depth` elements in a dword."""
    lanes, run = count // 4, _ELEMENTS[dtype]
    depth = run // 4

    @T.prim_func(s_tir=True)
    def desc(
        rows: T.Buffer((4, lanes, run), dtype, offset_factor=1),
        out: T.Buffer((4, count, depth), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(rows[0:4, 0:lanes, 0:run])
            T.writes(out[0:4, 0:count, 0:depth])
            for j, n, i in T.grid(4, count, depth):
                with T.sblock("regroup"):
                    vj, vn, vi = T.axis.remap("SSS", [j, n, i])
                    out[vj, vn, vi] = rows[vn % 4, vn // 4, vj * depth + vi]

    return desc


def regroup_impl(dtype: str, count: int) -> PrimFunc:
    """Four loads, eight shuffles, four stores of `count` dwords."""
    lanes, run = count // 4, _ELEMENTS[dtype]
    depth = run // 4
    size = count * depth

    def emit(rows, out) -> None:
        vectors = [T.Bind(T.reinterpret(f"int32x{count}", rows.vload([r, 0, 0], f"{dtype}x{size}"))) for r in range(4)]
        for j, column in enumerate(four_by_four(vectors, count)):
            T.buffer_store(out, T.reinterpret(f"{dtype}x{size}", column), [j, 0, T.ramp(0, 1, size)])

    @T.prim_func(s_tir=True)
    def impl(
        rows: T.Buffer((4, lanes, run), dtype, offset_factor=1),
        out: T.Buffer((4, count, depth), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(rows[0:4, 0:lanes, 0:run])
            T.writes(out[0:4, 0:count, 0:depth])
            emit(rows, out)

    return impl
