"""Table read by loading rows: a code picks a run of outputs of its codebook's table, which are added up in lanes.

There is no shuffle at all, so K may be up to 256, and results are row-major as they are. `preadd` = 2 adds the entries
of two codebooks in int8 first (see `tvm_ext.compute.narrow`): 1.5 vector instructions for 16 lookups instead of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.script import tirx as T
from tvm.tirx import PrimFunc, Ramp, address_of, call_llvm_intrin

from tvm_ext.compute.lookup import Epilogue, activated
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.tensor_intrin.spec import llvm_intrinsic
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
    """Blocks of outputs: `count` slabs of `width` (a multiple of 16), read in `chunks` of `chunk` groups of codebooks.

    The last chunk may be shorter.
    """

    width: int
    count: int
    chunks: int
    chunk: int


def slabs(outputs: int, groups: int, centroids: int, group: int) -> Slabs:
    """As many outputs as registers hold, or as fill whole vectors evenly; even chunks that stay in the cache."""
    vectors = -(-outputs // LANES)
    count = -(-vectors // _MAX_VECTORS)
    width = -(-vectors // count) * LANES
    most = max(_LEAST_CHUNK, min(_CACHE_BYTES // (group * centroids * width), _INT16_GROUPS))
    chunks = max(1, -(-groups // most))
    return Slabs(width, count, chunks, -(-groups // chunks))


def pack_rows(table: np.ndarray, group: int) -> np.ndarray:
    """int8 [C, K, M] -> int8 [slabs, groups, K, group, width], zeros where padded.

    The rows of a group at one code are neighbours, near enough for loads of two registers at constant distances.
    """
    c, k, m = table.shape
    groups = -(-c // group)
    slab = slabs(m, groups, k, group)
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
    slab = slabs(outputs, groups, table_shape[2], group)
    tiles, vectors = -(-rows // tile), width // LANES
    code_shape = (1, tiles, groups, *read.code_shape) if read else (rows, codebooks)
    sum_dtype = "int16" if narrow else "int32"
    over_tiles = T.parallel if worth_threads(rows * padded * outputs * _NS_PER_ENTRY) else T.serial

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
            T.buffer_store(sums, so_far(acc, sums, r, lanes, first), [r, lanes])

    def so_far(acc, sums, r, at, first: bool):
        """Sums of an output or a ramp of outputs, with those of the chunks before unless this is the first."""
        if narrow:
            return acc[at]
        value = T.cast(acc[at], f"int32x{at.lanes}" if isinstance(at, Ramp) else "int32")
        return value if first else sums[r, at] + value

    def totals(acc, sums, r, m: int, first: bool) -> list:
        """Two float32x4, of the outputs m and on of a slab; sums of int16 have started at -32768."""
        if not narrow:
            ramps = [T.ramp(m + half, 1, _PIECE) for half in (0, _PIECE)]
            return [T.cast(so_far(acc, sums, r, ramp, first), f"float32x{_PIECE}") for ramp in ramps]
        pairs = [T.Shuffle([acc[T.ramp(m, 1, 8)], T.broadcast(T.int16(FLOAT_HIGH), 8)], zip_) for zip_ in _ZIP]
        return [T.reinterpret("float32x4", pair) - T.broadcast(T.float32(FLOAT_ZERO), _PIECE) for pair in pairs]

    def store(value, s, m, n, scale, shift, other, inv_scale, y, quantized) -> None:
        """Results from their sums: of output m of a slab, or of a ramp of four."""
        lanes, at = _PIECE if isinstance(m, Ramp) else 1, m + s * width
        value = value * scale[m]
        value = value + shift[m] if bias else value
        value = value + other[n, at] if residual else value
        value = finished(value, epilogue.activation, lanes)
        if epilogue.keep_float or epilogue.search is None:
            T.buffer_store(y, value, [n, at])
        if epilogue.search is not None:
            scaled = value * inv_scale[m]  # a vector of scales, where `quantize` takes one
            result = epilogue.search.quantize(scaled, T.float32(1), epilogue.quantized, lanes)
            T.buffer_store(quantized, result, [n, at])

    def finish(acc, sums, s, r, n, v: int, first: bool, *buffers) -> None:
        """The vector of outputs v of a slab."""
        for m in range(v * LANES, (v + 1) * LANES, 2 * _PIECE):
            for half, value in enumerate(totals(acc, sums, r, m, first)):
                store(value, s, T.ramp(m + _PIECE * half, 1, _PIECE), n, *buffers)

    def finish_one(acc, sums, s, r, n, m: int, first: bool, *buffers) -> None:
        if narrow:
            value = T.cast(T.reinterpret("uint16", acc[m]), "float32") - T.float32(32768)
        else:
            value = T.cast(so_far(acc, sums, r, m, first), "float32")
        store(value, s, m, n, *buffers)

    def finish_slab(acc, sums, s, r, n, first: bool, scale, shift, other, inv_scale, *results) -> None:
        """Results of a row from the registers its sums are in."""
        # else LLVM would lift scales and biases out of the loop over rows, and spill them
        used = (True, bias, epilogue.search is not None)
        scale, shift, inv_scale = (
            opaque(buffer, [s * width], width) if needed else buffer
            for buffer, needed in zip((scale, shift, inv_scale), used, strict=True)
        )
        arguments = (first, scale, shift, other, inv_scale, *results)
        last = outputs - (count - 1) * width  # of the last slab
        for v in range(last // LANES):
            finish(acc, sums, s, r, n, v, *arguments)
        if last == width:
            return
        with T.If(s < count - 1):
            with T.Then():
                for v in range(last // LANES, vectors):
                    finish(acc, sums, s, r, n, v, *arguments)
            with T.Else():
                for m in range(last // LANES * LANES, last):
                    finish_one(acc, sums, s, r, n, m, *arguments)

    def add_chunk(codes, table, sums, s, t, part, first: bool, last: bool, *buffers) -> None:
        """One chunk of codebooks, for all rows of a tile; with the last come the results."""
        with T.serial(T.min(tile, rows - t * tile)) as r:
            acc = T.alloc_buffer((width,), "int16")
            start(acc, sums, r, first)
            with T.serial(T.min(slab.chunk, groups - part * slab.chunk)) as g:
                accumulate(codes, table, acc, s, t, r, part * slab.chunk + g)
            if last:
                finish_slab(acc, sums, s, r, t * tile + r, first, *buffers)
            else:
                end(acc, sums, r, first)

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
                    if slab.chunks > 1:
                        add_chunk(codes, table, sums, s, t, 0, True, False)
                        for part in T.serial(slab.chunks - 2):
                            add_chunk(codes, table, sums, s, t, part + 1, False, False)
                    add_chunk(codes, table, sums, s, t, slab.chunks - 1, slab.chunks == 1, True,
                              scale, shift, other, inv_scale, y, quantized)  # fmt: skip

    return epilogue.without_unused(kernel, bias, residual)


def opaque(buffer, first: list, length: int):
    """Elements of a buffer from `first` on, at an address of which LLVM knows nothing.

    So it neither takes what is read there for what was read before, nor takes the address apart: elements at constant
    distances stay offsets in the instructions.
    """
    address = address_of(buffer[tuple(first)])
    pointer = T.Bind(call_llvm_intrin(address.ty, llvm_intrinsic("llvm.launder.invariant.group"), address))
    return T.decl_buffer((length,), buffer.ty.dtype, data=pointer)


def add_group(table, acc, s, g, word, group: int, preadd: int, width: int) -> None:
    """Add the table rows of `group` codebooks, whose codes are the bytes of `word`, to sums of a slab's outputs."""
    add_rows(table, acc, s, g, [T.bitwise_and(T.shift_right(word, 8 * c), 255) for c in range(group)], preadd, width)


def add_rows(table, acc, s, g, codes: list, preadd: int, width: int) -> None:
    """Add the rows at `codes` of a group's codebooks to int16 sums [width], `preadd` of them in int8 first."""
    group, centroids = len(codes), table.ty.shape[2]
    rows = [T.Bind(T.cast(code, "int32") * (group * width)) for code in codes]
    here = opaque(table, [s, g, 0, 0, 0], centroids * group * width)
    for first in range(0, group, preadd):
        for v in range(width // LANES):
            at = [T.ramp(rows[c] + (c * width + v * LANES), 1, LANES) for c in range(first, min(first + preadd, group))]
            total = here[at[0]]
            for lanes in at[1:]:
                total = total + here[lanes]
            lanes = T.ramp(v * LANES, 1, LANES)
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
