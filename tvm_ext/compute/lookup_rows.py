"""Table read by loading rows: a code picks a run of outputs of its codebook's table, which are added up in lanes.

There is no shuffle at all, so K may be up to 256, and results are row-major as they are. `preadd` = 2 adds the entries
of two codebooks in int8 first (see `tvm_ext.compute.narrow`): 1.5 vector instructions for 16 lookups instead of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.script import tirx as T
from tvm.tirx import PrimFunc, Ramp

from tvm_ext.compute.lookup import Epilogue
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.threads import worth_threads

_LANES, _MAX_VECTORS = 16, 8
_CACHE_BYTES = 48 << 10
"""Of a table that a block of rows reads at a time: what a first-level cache has left."""
_LEAST_CHUNK, _INT16_GROUPS = 4, 63
"""Groups of four codebooks between additions to the sums: fewer cost more than the cache gives; 252 * 128 fits int16."""
_NS_PER_ENTRY = 1 / 30
_FLOAT_HIGH, _FLOAT_ZERO = 0x4B00, float(2**23 + 2**15)
"""High half of 2^23 as float32: with an unsigned 16-bit number below it, it is 2^23 plus that number."""


@dataclass(frozen=True)
class Slabs:
    """Blocks of outputs: `count` slabs of `width` (a multiple of 16), read `chunk` groups of codebooks at a time."""

    width: int
    count: int
    chunk: int


def slabs(outputs: int, centroids: int, group: int) -> Slabs:
    """As many outputs as registers hold, or as fill whole vectors evenly; chunks that stay in the cache."""
    vectors = -(-outputs // _LANES)
    count = -(-vectors // _MAX_VECTORS)
    width = -(-vectors // count) * _LANES
    chunk = min(_CACHE_BYTES // (group * centroids * width), _INT16_GROUPS)
    return Slabs(width, count, max(_LEAST_CHUNK, chunk))


def pack_rows(table: np.ndarray, group: int) -> np.ndarray:
    """int8 [C, K, M] -> int8 [slabs, C padded to whole groups, K, width], zeros where padded."""
    c, k, m = table.shape
    slab = slabs(m, k, group)
    packed = np.zeros((-(-c // group) * group, k, slab.count * slab.width), np.int8)
    packed[:c, :, :m] = table
    return np.ascontiguousarray(packed.reshape(len(packed), k, slab.count, slab.width).transpose(2, 0, 1, 3))


def lookup_rows(
    table_shape: tuple[int, ...], rows: int, outputs: int, read: TableRead | None,
    *, codebooks: int, preadd: int, narrow: bool, bias: bool, residual: bool, epilogue: Epilogue,
) -> PrimFunc:  # fmt: skip
    """Results [rows, outputs] from codes, table (`pack_rows`), table_scale and, if there, bias, residual, inv_scale.

    codes: uint8 [1, tiles, groups, *read.code_shape], or [rows, codebooks] without `read`. `narrow`: int16 holds every
    sum.
    """
    count, padded, _, width = table_shape
    tile = read.rows if read else 1
    group = read.group if read else 4
    slab = slabs(outputs, table_shape[2], group)
    tiles, groups, vectors = -(-rows // tile), padded // group, width // _LANES
    code_shape = (1, tiles, groups, *read.code_shape) if read else (rows, codebooks)
    sum_dtype = "int16" if narrow else "int32"
    over_tiles = T.parallel if worth_threads(rows * padded * outputs * _NS_PER_ENTRY) else T.serial
    chunks = -(-groups // slab.chunk)

    def code_of(codes, t, r, g):
        """Codes of the codebooks of group g as a function of the codebook in the group."""
        if not read:  # the last group may be short; its tables are zero there
            last = codebooks - 1
            return lambda c: codes[t, T.min(g * group + c, last) if padded > codebooks else g * group + c]
        word = T.Bind(T.reinterpret("int32", codes.vload([0, t, g, r, 0], f"uint8x{group}")))
        return lambda c: T.bitwise_and(T.shift_right(word, 8 * c), 255)

    def accumulate(codes, table, acc, s, t, r, g) -> None:
        code = code_of(codes, t, r, g)
        rows = [T.Bind(T.cast(code(c), "int32")) for c in range(group)]
        for first in range(0, group, preadd):
            for v in range(vectors):
                lanes = T.ramp(v * _LANES, 1, _LANES)
                total = table[s, g * group + first, rows[first], lanes]
                for c in range(first + 1, first + preadd):
                    total = total + table[s, g * group + c, rows[c], lanes]
                T.buffer_store(acc, acc[lanes] + T.cast(total, f"int16x{_LANES}"), [lanes])

    def clear(acc) -> None:
        for v in range(vectors):
            T.buffer_store(acc, T.broadcast(T.int16(0), _LANES), [T.ramp(v * _LANES, 1, _LANES)])

    def add(sums, acc, r) -> None:
        for v in range(vectors):
            lanes = T.ramp(v * _LANES, 1, _LANES)
            T.buffer_store(sums, sums[r, lanes] + T.cast(acc[lanes], f"{sum_dtype}x{_LANES}"), [r, lanes])

    def clear_sums(sums) -> None:
        for r in range(tile):
            for v in range(vectors):
                T.buffer_store(sums, T.broadcast(T.Cast(sum_dtype, T.int32(0)), _LANES), [r, T.ramp(v * _LANES, 1, _LANES)])

    def store(total, at, n, scale, shift, other, inv_scale, y, quantized) -> None:
        """Results from their sums; `at` is an output or a ramp of four."""
        value = total * scale[at]
        value = epilogue.value(value + shift[at] if bias else value, (n, at), other if residual else None)
        if epilogue.keep_float or epilogue.search is None:
            T.buffer_store(y, value, [n, at])
        if epilogue.search is not None:
            lanes = 4 if isinstance(at, Ramp) else 1
            scaled = value * inv_scale[at]  # a vector of scales, where `quantize` takes one
            result = epilogue.search.quantize(scaled, T.float32(1), epilogue.quantized, lanes)
            T.buffer_store(quantized, result, [n, at])

    @T.prim_func(s_tir=True)
    def kernel(
        codes: T.Buffer(code_shape, "uint8"),
        table: T.Buffer(table_shape, "int8"),
        scale: T.Buffer((outputs,), "float32"),
        shift: T.Buffer((outputs,), "float32"),
        other: T.Buffer((rows, outputs), "float32"),
        inv_scale: T.Buffer((outputs,), "float32"),
        y: T.Buffer((rows, outputs), "float32"),
        quantized: T.Buffer((rows, outputs), epilogue.quantized or "int8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("lookup"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(table[0:count, 0:padded])
            T.writes(y[0:rows, 0:outputs])
            for t in over_tiles(tiles):
                sums = T.alloc_buffer((tile, width), sum_dtype)
                for s in T.serial(count):
                    clear_sums(sums)
                    for part in T.serial(chunks):
                        for r in T.serial(T.min(tile, rows - t * tile)):
                            acc = T.alloc_buffer((width,), "int16")
                            clear(acc)
                            for g in T.serial(T.min(slab.chunk, groups - part * slab.chunk)):
                                accumulate(codes, table, acc, s, t, r, part * slab.chunk + g)
                            add(sums, acc, r)
                    for r in T.serial(T.min(tile, rows - t * tile)):
                        here: T.let = T.min(width, outputs - s * width)
                        for m in T.serial(here // 4):
                            store(_four(sums, r, m * 4), T.ramp(s * width + m * 4, 1, 4), t * tile + r,
                                  scale, shift, other, inv_scale, y, quantized)  # fmt: skip
                        for m in T.serial(here % 4):
                            store(T.cast(sums[r, here // 4 * 4 + m], "float32"), s * width + here // 4 * 4 + m,
                                  t * tile + r, scale, shift, other, inv_scale, y, quantized)  # fmt: skip

    fused = epilogue.search is not None
    given = (True, True, True, bias, residual, fused, epilogue.keep_float or not fused, fused)
    params = [param for param, there in zip(kernel.params, given, strict=True) if there]
    return PrimFunc(params, kernel.body, kernel.ret_type, kernel.attrs)


def _four(sums, r, m):
    """Four sums as float32: int16 by interleaving, which any pipe does, where a conversion is slow on most cores."""
    lanes = T.ramp(m, 1, 4)
    if str(sums.dtype) != "int16":
        return T.cast(sums[r, lanes], "float32x4")
    unsigned = T.bitwise_xor(sums[r, lanes], T.broadcast(T.int16(-32768), 4))
    high = T.broadcast(T.int16(_FLOAT_HIGH), 4)
    pairs = T.Shuffle([unsigned, high], [0, 4, 1, 5, 2, 6, 3, 7])
    return T.reinterpret("float32x4", pairs) - T.broadcast(T.float32(_FLOAT_ZERO), 4)
