"""Neighbours in each of 2 or 4 channels, side by side for dot products: the channels of a position together.

By vector shuffles that every ISA has; LLVM selects punpck, vperm and zip.
"""

from __future__ import annotations

import functools

from tvm import s_tir
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.tirx import PrimFunc


@functools.cache
def interleave_intrin(rows: int, depth: int, source: str, dtype: str) -> str:
    """Name of the intrinsic for `rows` neighbours in each of `depth` (2 or 4) channels of `source` elements.

    They are stored as `dtype`: `source`, or a wider type. The first call registers it.
    """
    name, shape = f"lut_interleave_{rows}_{depth}_{source}_{dtype}", (rows, depth, source, dtype)
    s_tir.TensorIntrin.register(name, interleave_desc(*shape), interleave_impl(*shape))
    return name


def interleave_desc(rows: int, depth: int, source: str, dtype: str) -> PrimFunc:
    """``out[n, i] = channels[i, n]``, channels at any distance."""

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, out: T.Buffer((rows, depth), dtype, offset_factor=1)):
        stride = T.int32()
        channels = T.match_buffer(a, (depth, rows), source, strides=[stride, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads(channels[0:depth, 0:rows])
            T.writes(out[0:rows, 0:depth])
            for n, i in T.grid(rows, depth):
                with T.sblock("interleave"):
                    vn, vi = T.axis.remap("SS", [n, i])
                    out[vn, vi] = T.cast(channels[vi, vn], dtype)

    return desc


def interleave_impl(rows: int, depth: int, source: str, dtype: str) -> PrimFunc:
    """A load a channel, one or two rounds of interleaving, one store."""

    def emit(channels, out) -> None:
        vectors = [T.Bind(channels.vload([i, 0], f"{source}x{rows}")) for i in range(depth)]
        joined = _interleaved(vectors, rows)
        T.buffer_store(out, T.cast(joined, f"{dtype}x{rows * depth}"), [0, T.ramp(0, 1, rows * depth)])

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, out: T.Buffer((rows, depth), dtype, offset_factor=1)):
        stride = T.int32()
        channels = T.match_buffer(a, (depth, rows), source, strides=[stride, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads(channels[0:depth, 0:rows])
            T.writes(out[0:rows, 0:depth])
            emit(channels, out)

    return impl


def _interleaved(vectors: list[Expr], rows: int) -> Expr:
    """Element 0 of every vector, then element 1 of every vector, and so on."""
    depth = len(vectors)
    if depth == 2:
        return T.Shuffle(vectors, [i + part * rows for i in range(rows) for part in range(2)])
    joined = [T.Bind(T.Shuffle(vectors[i : i + 2], list(range(2 * rows)))) for i in (0, 2)]
    return T.Shuffle(joined, [i + part * rows for i in range(rows) for part in range(4)])
