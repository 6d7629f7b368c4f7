"""Table read by loading rows: a code picks a run of outputs of its codebook's table, which are added up in lanes.

There is no shuffle at all, so K may be up to 256, and results are row-major as they are. `preadd` = 2 adds the entries
of two codebooks in int8 first (see `tvm_ext.compute.narrow`): 1.5 vector instructions for 16 lookups instead of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.script import tirx as T
from tvm.tirx import PrimFunc, Ramp

from tvm_ext.compute.lookup import Epilogue, activated
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.threads import worth_threads

LANES, _PIECE, _MAX_VECTORS = 16, 4, 8
"""Entries of an int8 vector, results of a float32 one, and vectors of entries whose sums stay in registers."""
_CACHE_BYTES = 48 << 10
"""Of a table that a block of rows reads at a time: what a first-level cache has left."""
_LEAST_CHUNK, _INT16_GROUPS = 4, 63
"""Groups of four codebooks between additions to the sums: fewer cost too much, and 252 codebooks * 128 fit int16."""
_NS_PER_ENTRY = 1 / 30
_ZIP = [[i + half for i in range(first, first + 4) for half in (0, 8)] for first in (0, 4)]
FLOAT_HIGH, FLOAT_ZERO = 0x4B00, float(2**23 + 2**15)
"""High half of 2^23 as float32: with an unsigned 16-bit number below it, it is 2^23 plus that number."""


@dataclass(frozen=True)
class Slabs:
    """Blocks of outputs: `count` slabs of `width` (a multiple of 16), read `chunk` groups of codebooks at a time."""

    width: int
    count: int
    chunk: int


def slabs(outputs: int, centroids: int, group: int) -> Slabs:
    """As many outputs as registers hold, or as fill whole vectors evenly; chunks that stay in the cache."""
    vectors = -(-outputs // LANES)
    count = -(-vectors // _MAX_VECTORS)
    width = -(-vectors // count) * LANES
    chunk = min(_CACHE_BYTES // (group * centroids * width), _INT16_GROUPS)
    return Slabs(width, count, max(_LEAST_CHUNK, chunk))


def pack_rows(table: np.ndarray, group: int) -> np.ndarray:
    """int8 [C, K, M] -> int8 [slabs, groups, K, group, width], zeros where padded.

    The rows of a group at one code are neighbours, near enough for loads of two registers at constant distances.
    """
    c, k, m = table.shape
    slab, groups = slabs(m, k, group), -(-c // group)
    packed = np.zeros((groups * group, k, slab.count * slab.width), np.int8)
    packed[:c, :, :m] = table
    return np.ascontiguousarray(packed.reshape(groups, group, k, slab.count, slab.width).transpose(3, 0, 2, 1, 4))


def lookup_rows(
    table_shape: tuple[int, ...], rows: int, outputs: int, read: TableRead | None,
    *, codebooks: int, preadd: int, narrow: bool, bias: bool, residual: bool, epilogue: Epilogue,
) -> PrimFunc:  # fmt: skip
    """Results [rows, outputs] from codes, table (`pack_rows`), table_scale and, if there, bias, residual, inv_scale.

    codes: uint8 [1, tiles, groups, *read.code_shape], or [rows, codebooks] without `read`. `narrow`: int16 holds every
    sum.
    """
    count, groups, _, group, width = table_shape
    tile = read.rows if read else 1
    padded = groups * group
    slab = slabs(outputs, table_shape[2], group)
    tiles, vectors = -(-rows // tile), width // LANES
    code_shape = (1, tiles, groups, *read.code_shape) if read else (rows, codebooks)
    sum_dtype = "int16" if narrow else "int32"
    over_tiles = T.parallel if worth_threads(rows * padded * outputs * _NS_PER_ENTRY) else T.serial
    chunks = -(-groups // slab.chunk)

    def accumulate(codes, table, acc, s, t, r, g) -> None:
        if read:
            word = T.Bind(T.reinterpret("int32", codes.vload([0, t, g, r, 0], f"uint8x{group}")))
            add_group(table, acc, s, g, word, group, preadd, width)
            return
        last = codebooks - 1  # the last group may be short; its tables are zero there
        found = [codes[t, T.min(g * group + c, last) if padded > codebooks else g * group + c] for c in range(group)]
        add_rows(table, acc, s, g, found, preadd, width)

    def start(acc, sums, r, first: bool) -> None:
        """int16 sums go on where they are; others are added to int32 at the end."""
        for v in range(vectors):
            lanes = T.ramp(v * LANES, 1, LANES)
            low = T.broadcast(T.int16(-32768 if narrow else 0), LANES)
            T.buffer_store(acc, low if first or not narrow else sums[r, lanes], [lanes])

    def end(acc, sums, r, first: bool) -> None:
        for v in range(vectors):
            lanes = T.ramp(v * LANES, 1, LANES)
            value = acc[lanes] if narrow else T.cast(acc[lanes], f"int32x{LANES}")
            T.buffer_store(sums, value if first or narrow else sums[r, lanes] + value, [r, lanes])

    def total(sums, r, m, half: int):
        """float32x4: sums of the outputs m + 4 * half ... of a slab; those of int16 have started at -32768."""
        if not narrow:
            return T.cast(sums[r, T.ramp(m + _PIECE * half, 1, _PIECE)], f"float32x{_PIECE}")
        pairs = T.Shuffle([sums[r, T.ramp(m, 1, 8)], T.broadcast(T.int16(FLOAT_HIGH), 8)], _ZIP[half])
        return T.reinterpret("float32x4", pairs) - T.broadcast(T.float32(FLOAT_ZERO), _PIECE)

    def store(value, at, n, scale, shift, other, inv_scale, y, quantized) -> None:
        """Results from their sums; `at` is an output or a ramp of four."""
        lanes = _PIECE if isinstance(at, Ramp) else 1
        value = value * scale[at]
        value = value + shift[at] if bias else value
        value = value + other[n, at] if residual else value
        value = finished(value, epilogue.activation, lanes)
        if epilogue.keep_float or epilogue.search is None:
            T.buffer_store(y, value, [n, at])
        if epilogue.search is not None:
            scaled = value * inv_scale[at]  # a vector of scales, where `quantize` takes one
            result = epilogue.search.quantize(scaled, T.float32(1), epilogue.quantized, lanes)
            T.buffer_store(quantized, result, [n, at])

    def finish(sums, s, r, n, m, *buffers) -> None:
        for i in range(LANES // _PIECE):
            value = total(sums, r, m + i // 2 * 8, i % 2)
            store(value, T.ramp(s * width + m + _PIECE * i, 1, _PIECE), n, *buffers)

    def finish_one(sums, s, r, n, m, *buffers) -> None:
        value = T.cast(sums[r, m], "float32")
        if narrow:
            value = T.cast(T.reinterpret("uint16", sums[r, m]), "float32") - T.float32(32768)
        store(value, s * width + m, n, *buffers)

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
            T.reads(table[0:count, 0:groups])
            T.writes(y[0:rows, 0:outputs])
            for t in over_tiles(tiles):
                sums = T.alloc_buffer((tile, width), sum_dtype)
                for s in T.serial(count):
                    for r in T.serial(T.min(tile, rows - t * tile)):
                        acc = T.alloc_buffer((width,), "int16")
                        start(acc, sums, r, True)
                        for g in T.serial(T.min(slab.chunk, groups)):
                            accumulate(codes, table, acc, s, t, r, g)
                        end(acc, sums, r, True)
                    for part in T.serial(chunks - 1):
                        for r in T.serial(T.min(tile, rows - t * tile)):
                            acc = T.alloc_buffer((width,), "int16")
                            start(acc, sums, r, False)
                            for g in T.serial(T.min(slab.chunk, groups - (part + 1) * slab.chunk)):
                                accumulate(codes, table, acc, s, t, r, (part + 1) * slab.chunk + g)
                            end(acc, sums, r, False)
                    # through memory: else LLVM would lift scales and biases out of the loop over rows, and spill them
                    here: T.let = T.min(width, outputs - s * width)
                    for r in T.serial(T.min(tile, rows - t * tile)):
                        for m in T.serial(here // LANES):
                            finish(sums, s, r, t * tile + r, m * LANES, scale, shift, other, inv_scale, y, quantized)
                        for m in T.serial(here % LANES):
                            finish_one(sums, s, r, t * tile + r, here // LANES * LANES + m,
                                       scale, shift, other, inv_scale, y, quantized)  # fmt: skip

    return epilogue.without_unused(kernel, bias, residual)


def add_group(table, acc, s, g, word, group: int, preadd: int, width: int) -> None:
    """Add the table rows of `group` codebooks, whose codes are the bytes of `word`, to sums of a slab's outputs."""
    add_rows(table, acc, s, g, [T.bitwise_and(T.shift_right(word, 8 * c), 255) for c in range(group)], preadd, width)


def add_rows(table, acc, s, g, codes: list, preadd: int, width: int) -> None:
    """Add the rows at `codes` of a group's codebooks to int16 sums [width], `preadd` of them in int8 first."""
    rows = [T.Bind(T.cast(code, "int32")) for code in codes]
    for first in range(0, len(rows), preadd):
        for v in range(width // LANES):
            lanes = T.ramp(v * LANES, 1, LANES)
            total = table[s, g, rows[first], first, lanes]
            for c in range(first + 1, first + preadd):
                total = total + table[s, g, rows[c], c, lanes]
            T.buffer_store(acc, acc[lanes] + T.cast(total, f"int16x{LANES}"), [lanes])


def finished(value, activation: str, lanes: int):
    """`activated`, with one instruction for each bound of a vector."""
    if lanes == 1:
        return activated(value, activation)
    bounds = {"": (), "relu": (("max", 0),), "relu6": (("max", 0), ("min", 6))}
    for kind, bound in bounds[activation]:
        limit = T.broadcast(T.float32(bound), lanes)
        value = T.call_llvm_pure_intrin(f"float32x{lanes}", f"llvm.{kind}num.v{lanes}f32", value, limit)
    return value
