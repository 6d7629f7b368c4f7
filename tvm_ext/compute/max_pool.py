"""Maxima of 2x2 windows of channels-first maps: pairs of lines, then neighbours by a shuffle."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.threads import worth_threads

_NS_PER_BYTE = 0.02


def max_pool_2x2(shape: tuple[int, int, int, int], dtype: str, vector_bytes: int) -> PrimFunc:
    """x [B, C, H, W], W at least 4 -> [B, C, H // 2, W // 2], windows side by side; scheduled.

    A line's last vector overlaps the one before, so that all are whole; `vector_bytes` are those of a register.
    """
    batch, channels, height, width = shape
    out_shape = (batch, channels, height // 2, width // 2)
    size = tirx.const(0, dtype).ty.dtype.itemsize
    most = min(vector_bytes // size, out_shape[-1])
    lanes = 1 << (most.bit_length() - 1)
    vectors = -(-out_shape[-1] // lanes)
    over_maps = T.parallel if worth_threads(math.prod(shape) * size * _NS_PER_BYTE) else T.serial
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x, out = T.arg("x", T.Buffer(shape, dtype)), T.arg("out", T.Buffer(out_shape, dtype))
        with T.sblock("max_pool"):
            T.reads([x[tuple(slice(0, d) for d in shape)]])
            T.writes([out[tuple(slice(0, d) for d in out_shape)]])
            with over_maps(batch * channels) as image:
                b, c = T.Bind(image // channels), T.Bind(image % channels)
                with T.serial(out_shape[2]) as h, T.serial(vectors) as vector:
                    start = T.Bind(T.min(vector * lanes, out_shape[-1] - lanes))
                    lines = [
                        [x[b, c, h * 2 + i, T.ramp(start * 2 + part * lanes, 1, lanes)] for part in (0, 1)]
                        for i in (0, 1)
                    ]
                    pairs = [T.Bind(tirx.max(above, below)) for above, below in zip(*lines, strict=True)]
                    even, odd = (T.Shuffle(pairs, [*range(first, 2 * lanes, 2)]) for first in (0, 1))
                    T.buffer_store(out, tirx.max(even, odd), [b, c, h, T.ramp(start, 1, lanes)])
    return ib.get()
