"""What the tensor intrinsics mean, as plain loops. Every ISA's implementation is checked against these.

A table read is written as a one-hot sum, ``acc[n] += select(code[n, c] == k, table[c, k], 0)``, because a block whose
indices are loaded from a buffer cannot be matched by `tensorize`.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.spec import TABLE_ENTRIES, Dot, TableRead, Window

K = TABLE_ENTRIES


def table_read_desc(read: TableRead, mult: bool = False) -> PrimFunc:
    """The meaning of `read` on one tile: ``acc[n] += sum_c mult[c] * table[c, code[n, c] - c * code_offset]``."""
    if read.order == "row":
        return _one_codebook(read.rows, read.acc_dtype)
    if read.order == "unpack":
        return _unpack(read.rows, read.lanes, read.group, read.acc_dtype)
    if read.order == "codebook_row":
        return _codebook_row(read.rows, read.group, read.acc_dtype)
    if read.order == "pairs":
        return _pairs(read.rows, read.code_offset, read.acc_dtype)
    if mult:
        return _row_codebook_mult(read.rows, read.group, read.code_offset)
    return _row_codebook(read.rows, read.group, read.code_offset, read.acc_dtype)


def _one_codebook(rows: int, dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((rows,), "uint8", offset_factor=1),
        table: T.Buffer((K,), "int8", offset_factor=1),
        acc: T.Buffer((rows,), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:rows], table[0:K])
            T.writes(acc[0:rows])
            for n, k in T.grid(rows, K):
                with T.sblock("read"):
                    vn, vk = T.axis.remap("SR", [n, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vn] == T.cast(vk, "uint8"), T.cast(table[vk], dtype), T.cast(0, dtype)
                    )

    return desc


def _codebook_row(rows: int, group: int, dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((group, rows), "uint8", offset_factor=1),
        table: T.Buffer((group, K), "int8", offset_factor=1),
        acc: T.Buffer((rows,), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:group, 0:rows], table[0:group, 0:K])
            T.writes(acc[0:rows])
            for n, c, k in T.grid(rows, group, K):
                with T.sblock("read"):
                    vn, vc, vk = T.axis.remap("SRR", [n, c, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vc, vn] == T.cast(vk, "uint8"), T.cast(table[vc, vk], dtype), T.cast(0, dtype)
                    )

    return desc


def _pairs(rows: int, offset: int, dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((2, rows, 2), "uint8", offset_factor=1),
        table: T.Buffer((4, K), "int8", offset_factor=1),
        acc: T.Buffer((rows,), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:2, 0:rows, 0:2], table[0:4, 0:K])
            T.writes(acc[0:rows])
            for n, c, k in T.grid(rows, 4, K):
                with T.sblock("read"):
                    vn, vc, vk = T.axis.remap("SRR", [n, c, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vc % 2, vn, vc // 2] == T.cast(vk + vc // 2 * offset, "uint8"),
                        T.cast(table[vc, vk], dtype),
                        T.cast(0, dtype),
                    )

    return desc


def _unpack(rows: int, lanes: int, group: int, dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((group, lanes, 2, 8), "uint8", offset_factor=1),
        table: T.Buffer((group, K), "int8", offset_factor=1),
        acc: T.Buffer((rows,), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:group, 0:lanes, 0:2, 0:8], table[0:group, 0:K])
            T.writes(acc[0:rows])
            for n, c, k in T.grid(rows, group, K):
                with T.sblock("read"):
                    vn, vc, vk = T.axis.remap("SRR", [n, c, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vc, vn // 8 % lanes, vn // (8 * lanes), vn % 8] == T.cast(vk, "uint8"),
                        T.cast(table[vc, vk], dtype),
                        T.cast(0, dtype),
                    )

    return desc


def _row_codebook(rows: int, group: int, offset: int, dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((rows, group), "uint8", offset_factor=1),
        table: T.Buffer((group, K), "int8", offset_factor=1),
        acc: T.Buffer((rows,), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:rows, 0:group], table[0:group, 0:K])
            T.writes(acc[0:rows])
            for n, c, k in T.grid(rows, group, K):
                with T.sblock("read"):
                    vn, vc, vk = T.axis.remap("SRR", [n, c, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vn, vc] == T.cast(vk + vc * offset, "uint8"),
                        T.cast(table[vc, vk], dtype),
                        T.cast(0, dtype),
                    )

    return desc


def _row_codebook_mult(rows: int, group: int, offset: int) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        code: T.Buffer((rows, group), "uint8", offset_factor=1),
        table: T.Buffer((group, K), "int8", offset_factor=1),
        mult: T.Buffer((group,), "uint8", offset_factor=1),
        acc: T.Buffer((rows,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:rows, 0:group], mult[0:group], table[0:group, 0:K])
            T.writes(acc[0:rows])
            for n, c, k in T.grid(rows, group, K):
                with T.sblock("read"):
                    vn, vc, vk = T.axis.remap("SRR", [n, c, k])
                    acc[vn] = acc[vn] + T.Select(
                        code[vn, vc] == T.cast(vk + vc * offset, "uint8"),
                        T.cast(mult[vc], "int32") * T.cast(table[vc, vk], "int32"),
                        0,
                    )

    return desc


def dot_desc(dot: Dot) -> PrimFunc:
    """``acc[n] += sum_b x[n, b] * c[b]`` in int32: rows in vector lanes, a centroid broadcast."""
    return _dot_desc(dot.rows, dot.depth, dot.x_dtype, dot.c_dtype)


def dot_lanes_desc(dot: Dot) -> PrimFunc:
    """``acc[k] += sum_b c[k, b] * x[b]`` in int32: centroids in vector lanes, a row's elements broadcast."""
    return _dot_desc(dot.rows, dot.depth, dot.c_dtype, dot.x_dtype)


def _dot_desc(rows: int, depth: int, x_dtype: str, c_dtype: str) -> PrimFunc:
    @T.prim_func(s_tir=True)
    def desc(
        x: T.Buffer((rows, depth), x_dtype, offset_factor=1),
        c: T.Buffer((depth,), c_dtype, offset_factor=1),
        acc: T.Buffer((rows,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], x[0:rows, 0:depth], c[0:depth])
            T.writes(acc[0:rows])
            for n, b in T.grid(rows, depth):
                with T.sblock("dot"):
                    vn, vb = T.axis.remap("SR", [n, b])
                    acc[vn] = acc[vn] + T.cast(x[vn, vb], "int32") * T.cast(c[vb], "int32")

    return desc


def window_desc(window: Window) -> PrimFunc:
    """``out[n, i] += source[pattern[n, i] - index_offset]``, as a one-hot sum."""
    rows, depth, span, dtype, index = window.rows, window.depth, window.span, window.dtype, window.index_dtype
    if depth == 1:
        return _window_of_one(rows, span, dtype, index)
    collected, offset = window.collected, window.index_offset

    @T.prim_func(s_tir=True)
    def desc(
        pattern: T.Buffer((rows, depth), index, offset_factor=1),
        source: T.Buffer((span,), dtype, offset_factor=1),
        out: T.Buffer((rows, depth), collected, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(out[0:rows, 0:depth], pattern[0:rows, 0:depth], source[0:span])
            T.writes(out[0:rows, 0:depth])
            for n, i, s in T.grid(rows, depth, span):
                with T.sblock("collect"):
                    vn, vi, vs = T.axis.remap("SSR", [n, i, s])
                    out[vn, vi] = out[vn, vi] + T.Select(
                        pattern[vn, vi] == T.cast(vs + offset, index),
                        T.cast(source[vs], collected),
                        T.cast(0, collected),
                    )

    return desc


def _window_of_one(rows: int, span: int, dtype: str, index: str) -> PrimFunc:
    """The same without the loop over a single slot, which tensorize would not find."""

    @T.prim_func(s_tir=True)
    def desc(
        pattern: T.Buffer((rows, 1), index, offset_factor=1),
        source: T.Buffer((span,), dtype, offset_factor=1),
        out: T.Buffer((rows, 1), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(out[0:rows, 0:1], pattern[0:rows, 0:1], source[0:span])
            T.writes(out[0:rows, 0:1])
            for n, s in T.grid(rows, span):
                with T.sblock("collect"):
                    vn, vs = T.axis.remap("SR", [n, s])
                    out[vn, 0] = out[vn, 0] + T.Select(
                        pattern[vn, 0] == T.cast(vs, index), source[vs], T.cast(0, dtype)
                    )

    return desc
