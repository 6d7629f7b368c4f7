"""Table read by loading rows, for images: sums of positions by outputs, transposed to results y[b, m, n].

A row of the table holds outputs side by side, so no step of positions is ever padded: small images, which
`lookup_tiles` rounds up to whole registers, gain most. A block of positions reads a slab of the table in chunks that
stay in the first cache, as in `lookup_rows`; its sums wait in memory and are transposed eight by eight when they are
complete.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.lookup import Epilogue
from tvm_ext.compute.lookup_rows import FLOAT_HIGH, FLOAT_ZERO, LANES, add_group, slabs
from tvm_ext.compute.lookup_tiles import store_results
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.threads import worth_threads

SIDE = 8
"""Of the tiles that are transposed; an image has as many positions at least."""
_BLOCK = 4
"""Tiles of a block of positions, at most."""
_LOOKUPS_PER_NS = 16
_ZIP = [i + half for i in range(SIDE) for half in (0, SIDE)]


def lookup_image_rows(
    code_shape: tuple[int, ...], table_shape: tuple[int, ...], read: TableRead, shape: tuple[int, int, int],
    *, preadd: int, bias: bool, residual: bool, epilogue: Epilogue,
) -> PrimFunc:  # fmt: skip
    """Results `shape` [B, M, N] from codes, table (`pack_rows`), table_scale and, if there, bias, residual, inv_scale.

    codes uint8 [B, tiles, groups, *read.code_shape], read as words of four codes. int16 must hold every sum.
    """
    batch, outputs, positions = shape
    count, groups, centroids, group, width = table_shape
    slab, tiles = slabs(outputs, groups, centroids, group), -(-positions // SIDE)
    chunk = slab.chunk
    blocks = -(-tiles // _BLOCK)
    shared = worth_threads(batch * positions * outputs * groups * group / _LOOKUPS_PER_NS)
    over_tasks = T.parallel if shared else T.serial

    def add_chunk(codes, table, sums, b, s, n, r, part, length) -> None:
        """`length` groups from those of `part` on, of the position n that is the block's r-th."""
        acc = T.alloc_buffer((width,), "int16")
        for v in range(width // LANES):
            lanes = T.ramp(v * LANES, 1, LANES)
            start = T.broadcast(T.int16(-32768), LANES) if isinstance(part, int) else sums[r, lanes]
            T.buffer_store(acc, start, [lanes])
        with T.serial(length) as g:
            at = part * chunk + g
            word = codes.vload([b, n // read.rows, at, n % read.rows, 0], f"uint8x{group}")
            add_group(table, acc, s, at, T.Bind(T.reinterpret("int32", word)), group, preadd, width)
        for v in range(width // LANES):
            lanes = T.ramp(v * LANES, 1, LANES)
            T.buffer_store(sums, acc[lanes], [r, lanes])

    def finish(sums, b, s, m, first, rows, i, *buffers) -> None:
        """Outputs m ... of slab s at eight positions; the last eight of a block take some of those before."""
        within = T.Bind(T.min(i * SIDE, rows - SIDE))
        columns = [T.Bind(sums[within + r, T.ramp(m, 1, SIDE)]) for r in range(SIDE)]
        for _ in range(3):  # each interleaves the halves of 64 values; three times is their transpose
            halves = [[columns[j], columns[j + SIDE // 2]] for j in range(SIDE // 2)]
            columns = [T.Bind(T.Shuffle(pair, part)) for pair in halves for part in (_ZIP[:SIDE], _ZIP[SIDE:])]
        for q, column in enumerate(columns):
            pairs = T.Shuffle([column, T.broadcast(T.int16(FLOAT_HIGH), SIDE)], _ZIP)
            value = T.reinterpret(f"float32x{SIDE}", pairs) - T.broadcast(T.float32(FLOAT_ZERO), SIDE)
            with T.If(s * width + m + q < outputs), T.Then():
                store_results(
                    value, b, s * width + m + q, first + within, SIDE, epilogue, bias, residual, *buffers
                )  # fmt: skip

    @T.prim_func(s_tir=True)
    def kernel(
        codes: T.Buffer(code_shape, "uint8"),
        table: T.Buffer(table_shape, "int8"),
        scale: T.Buffer((outputs,), "float32"),
        shift: T.Buffer((outputs,), "float32"),
        other: T.Buffer((batch, outputs, positions), "float32"),
        inv_scale: T.Buffer((outputs,), "float32"),
        y: T.Buffer((batch, outputs, positions), "float32"),
        quantized: T.Buffer((batch, outputs, positions), epilogue.quantized or "int8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("lookup"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(table[0:count, 0:groups])
            T.writes(y[0:batch, 0:outputs])
            for task in over_tasks(batch * count * blocks):  # a slab for all blocks, then the next
                b: T.let = task // (count * blocks)
                s: T.let = task // blocks % count
                first: T.let = task % blocks * tiles // blocks * SIDE
                rows: T.let = T.min((task % blocks + 1) * tiles // blocks * SIDE, positions) - first
                sums = T.alloc_buffer((_BLOCK * SIDE, width), "int16")
                for r in T.serial(rows):
                    add_chunk(codes, table, sums, b, s, first + r, r, 0, T.min(chunk, groups))
                for part in T.serial(slab.chunks - 1):
                    for r in T.serial(rows):
                        length: T.let = T.min(chunk, groups - (part + 1) * chunk)
                        add_chunk(codes, table, sums, b, s, first + r, r, part + 1, length)
                for i in T.serial((rows + SIDE - 1) // SIDE):  # outer: else scales and biases are lifted, and spilled
                    for m in T.serial((T.min(width, outputs - s * width) + SIDE - 1) // SIDE):
                        finish(sums, b, s, m * SIDE, first, rows, i, scale, shift, other, inv_scale, y, quantized)

    return epilogue.without_unused(kernel, bias, residual)
