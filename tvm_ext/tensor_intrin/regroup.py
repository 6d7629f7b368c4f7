"""Sixteen rows of 16 bytes, regrouped for dot products of four: dword j of every row side by side. For every ISA.

Rows are stored so that lane l of vector r is row 4 * l + r; then a 4x4 transpose of dwords inside every 128-bit lane
puts them in order.
"""

from __future__ import annotations

import functools

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.transpose import four_by_four


@functools.cache
def regroup_intrin(dtype: str) -> str:
    """Name of the intrinsic for "uint8" or "int8"; registered by the first call."""
    name = f"lut_regroup_{dtype}"
    s_tir.TensorIntrin.register(name, regroup_desc(dtype), regroup_impl(dtype))
    return name


def regroup_desc(dtype: str) -> PrimFunc:
    """``out[j, 4 * l + r, i] = rows[r, l, 4 * j + i]``"""

    @T.prim_func(s_tir=True)
    def desc(
        rows: T.Buffer((4, 4, 16), dtype, offset_factor=1),
        out: T.Buffer((4, 16, 4), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(rows[0:4, 0:4, 0:16])
            T.writes(out[0:4, 0:16, 0:4])
            for j, n, i in T.grid(4, 16, 4):
                with T.sblock("regroup"):
                    vj, vn, vi = T.axis.remap("SSS", [j, n, i])
                    out[vj, vn, vi] = rows[vn % 4, vn // 4, vj * 4 + vi]

    return desc


def regroup_impl(dtype: str) -> PrimFunc:
    """Four loads, eight shuffles, four stores of 64 bytes."""

    def emit(rows, out) -> None:
        vectors = [T.Bind(T.reinterpret("int32x16", rows.vload([r, 0, 0], f"{dtype}x64"))) for r in range(4)]
        for j, column in enumerate(four_by_four(vectors, 16)):
            T.buffer_store(out, T.reinterpret(f"{dtype}x64", column), [j, 0, T.ramp(0, 1, 64)])

    @T.prim_func(s_tir=True)
    def impl(
        rows: T.Buffer((4, 4, 16), dtype, offset_factor=1),
        out: T.Buffer((4, 16, 4), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(rows[0:4, 0:4, 0:16])
            T.writes(out[0:4, 0:16, 0:4])
            emit(rows, out)

    return impl
