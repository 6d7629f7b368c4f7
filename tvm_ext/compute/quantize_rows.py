"""The rows of a dense layer, quantized once for an integer search that reads them by element."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import GRID, Search
from tvm_ext.tensor_intrin._lane_search import quantized
from tvm_ext.threads import worth_threads

_NS_PER_ELEMENT = 0.1
PART = 16
"""Bytes that a search loads at a time, so many may be read behind the last row."""


def quantized_size(rows: int, codebooks: int, width: int) -> int:
    """Elements of the result."""
    return rows * codebooks * width + PART


def quantize_rows_kernel(patches: Patches, search: Search, codebooks: int, length: int, width: int) -> PrimFunc:
    """x float32 [N, D], inv_scale float32 [C] -> int8 [N * C * `width` + 16]: subvectors of V, `width` apart.

    ``clip(round_half_even(x * inv_scale[c]))`` on the search's grid, + zero_point. What lies between subvectors and
    behind a row's last element meets centroids of zero, so it is left as it is.
    """
    rows, depth = patches.shape
    whole, tail = depth // length, depth % length
    lanes = next((n for n in (16, 8, 4) if length % n == 0), 1)
    over_rows = T.parallel if worth_threads(rows * depth * _NS_PER_ELEMENT) else T.serial

    def copy(x, inv_scale, out, n, c, v, lanes: int) -> None:
        at = (n * codebooks + c) * width + v
        if lanes == 1:
            T.buffer_store(out, search.quantize(x[n, c * length + v], inv_scale[c], "int8"), [at])
            return
        if lanes == 16:
            parts = [x[n, T.ramp(c * length + v + i, 1, 4)] for i in range(0, 16, 4)]
            value = quantized(parts, T.broadcast(inv_scale[c], 4), search.input_signed, GRID[search.encode_dtype])
            T.buffer_store(out, value, [T.ramp(at, 1, lanes)])
            return
        part = x[n, T.ramp(c * length + v, 1, lanes)]
        T.buffer_store(out, search.quantize(part, inv_scale[c], "int8", lanes), [T.ramp(at, 1, lanes)])

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((rows, depth), "float32"),
        inv_scale: T.Buffer((codebooks,), "float32"),
        out: T.Buffer((quantized_size(rows, codebooks, width),), "int8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("quantize"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(x[0:rows, 0:depth], inv_scale[0:codebooks])
            T.writes(out[0 : quantized_size(rows, codebooks, width)])
            for n in over_rows(rows):
                for c, part in T.grid(whole, length // lanes):
                    copy(x, inv_scale, out, n, c, part * lanes, lanes)
                for v in T.serial(tail):
                    copy(x, inv_scale, out, n, whole, v, 1)

    return kernel
