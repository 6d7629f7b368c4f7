"""Schedule of the packed table read: register tiles of R row tiles x Q outputs, tensorized with the ISA's shuffles."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.compute.lookup_tiles import PANEL_BYTES, panels
from tvm_ext.schedule.base import (
    blocks_of,
    choose,
    divisors,
    extent,
    iterations,
    kernel_of,
    largest_divisor,
    smallest_divisor,
)
from tvm_ext.tensor_intrin import TABLE_ENTRIES, TableRead, get_isa
from tvm_ext.tensor_intrin.transpose import transpose_intrin
from tvm_ext.threads import worth_threads

_EPILOGUE_LANES = 16
POSITIONS = "lut.positions"
"""Annotation of a loop over lanes: positions of an image, of which the lanes of its last vector may have fewer."""
_SMALL_PANEL_BYTES = 16 << 10
"""Of a table, where all codes stay in the second cache: a panel then stays in the first one, its results are whole
lines of memory one after the other, and a table beyond the second cache comes at the pace it is used at."""
_CODES_BYTES = 1 << 19
"""Codes up to which they stay in the second cache."""
_RUN = 32
_LOOKUPS_PER_NS = 100
"""Of the x86 kernels, roughly: tells work that threads share from work that they do not."""


class LookupShuffle(ScheduleRule):
    """Schedules PrimFuncs of kind ``lookup_shuffle``.

    Loops: images, panels of the table that the second cache holds, row blocks, all shared among threads; then output
    blocks, [drain chunks,] codebook groups, and Q x R tensorized tiles whose accumulators stay in registers; the
    epilogue follows each output block.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        kernel = kernel_of(func, "lookup_shuffle")
        if kernel is None:
            return None
        isa = get_isa(str(kernel["isa"]))
        read = isa.table_read
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        acc, drain, lanes = blocks["lut_acc"], blocks.get("lut_drain"), int(kernel["transpose"])
        results = [blocks[name] for name in ("lut_out", "lut_quantized") if name in blocks]
        root = acc if drain is None else drain
        b, m, n, *reduce = sch.get_loops(root)
        rows = extent(sch, sch.get_loops(results[0])[-1])
        lookups = iterations(sch, acc) // TABLE_ENTRIES
        row_tiles, outs = _tile_shape(sch, extent(sch, n) // read.rows, int(kernel["block"]), read, tunable)
        images, outputs = extent(sch, b), extent(sch, m)
        table_bytes = lookups // (images * extent(sch, n)) * TABLE_ENTRIES
        shared = worth_threads(lookups / _LOOKUPS_PER_NS)
        no, nr, nt = sch.split(n, [None, row_tiles, read.rows])
        wide = _run_length(outputs, lanes) if lanes else outs
        runs = outputs // wide
        small = not lanes and lookups // outputs <= _CODES_BYTES
        panel = _SMALL_PANEL_BYTES if small else PANEL_BYTES
        parts = smallest_divisor(runs, panels(runs, images * extent(sch, no), table_bytes, shared, panel))
        parts = choose(sch, parts, divisors(runs), tunable)
        mp, mg, mo, mq = sch.split(m, [parts, None, wide // outs, outs])
        sch.reorder(b, mp, no, mg, mo, *reduce[:1], mq, nr, nt, *reduce[1:])
        if shared:
            sch.parallel(sch.fuse(b, mp, no))
        if drain is not None:
            _schedule_drain(sch, drain, acc, reduce[0], row_tiles, read)
        if lanes:
            _schedule_transpose(sch, blocks["lut_scaled"], blocks["lut_rows"], results, mg, mo, lanes)
        else:
            for out in results:
                sch.reverse_compute_at(out, mo, preserve_unit_loops=True)
                _schedule_epilogue(sch, out, row_tiles, read, bool(int(kernel["feature_major"])), rows)
        _tensorize(sch, acc, read, read.intrin_mult if int(kernel["mult"]) else read.intrin)
        return sch


def _run_length(outputs: int, lanes: int) -> int:
    """Outputs transposed together: whole tiles of `lanes`, as long a run of a row as stays in the first cache."""
    return lanes * largest_divisor(outputs // lanes, max(1, _RUN // lanes))


def _schedule_transpose(sch: s_tir.Schedule, scaled, turned, results: list, mg, mo, lanes: int) -> None:
    """Scaled sums go to a tile in the first cache, are transposed there, and leave it row by row."""
    sch.reverse_compute_at(scaled, mo, preserve_unit_loops=True)
    for block in (turned, *results):
        sch.reverse_compute_at(block, mg, preserve_unit_loops=True)
    sch.vectorize(sch.split(sch.get_loops(scaled)[-1], [None, _EPILOGUE_LANES])[1])
    n, m = sch.get_loops(turned)[-2:]
    no, ni = sch.split(n, [None, lanes])
    mo2, mi = sch.split(m, [None, lanes])
    sch.reorder(no, mo2, ni, mi)
    sch.tensorize(ni, transpose_intrin(lanes))
    for out in results:
        sch.vectorize(sch.split(sch.get_loops(out)[-1], [None, lanes])[1])


def _tile_shape(sch: s_tir.Schedule, tiles: int, block: int, read: TableRead, tunable: bool) -> tuple[int, int]:
    """(R, Q): R divides the row tiles, Q the outputs that the table interleaves, R x Q accumulators fit; or sampled."""
    default = largest_divisor(tiles, max(1, read.tiles // block)), block
    pairs = [(r, q) for q in divisors(block) for r in divisors(tiles) if r * q <= read.tiles]
    return choose(sch, default, pairs, tunable)


def _schedule_drain(sch: s_tir.Schedule, drain, acc, chunk_loop, row_tiles: int, read: TableRead) -> None:
    """int16 sums of one chunk of codebooks at a time, added up in int32."""
    *_, mq, nr, nt = sch.get_loops(drain)
    for loop in (mq, nr):
        sch.unroll(loop)
    sch.vectorize(nt)
    sch.compute_at(acc, chunk_loop, preserve_unit_loops=True)
    init = sch.decompose_reduction(drain, chunk_loop)
    q, r, t = sch.get_loops(init)[-3:]
    sch.unroll(q)
    sch.unroll(r)
    sch.vectorize(t)
    *_, m, n, c, g, k = sch.get_loops(acc)
    ar, at = sch.split(n, [row_tiles, read.rows])
    sch.reorder(c, m, ar, at, g, k)


def _tensorize(sch: s_tir.Schedule, acc, read: TableRead, intrin: str) -> None:
    """The accumulation: codebook groups outermost, the tile innermost and replaced by the intrinsic."""
    *_, c, mq, nr, nt, g, k = sch.get_loops(acc)
    if read.group == 1:
        sch.reorder(g, mq, nr, nt, k)  # the intrinsic's meaning has no loop over a single codebook
    init = sch.decompose_reduction(acc, c)
    sch.unroll(mq)
    sch.unroll(nr)
    sch.tensorize(nt, intrin)
    q, r, t = sch.get_loops(init)[-3:]
    sch.unroll(q)
    sch.unroll(r)
    sch.vectorize(t)


def _schedule_epilogue(
    sch: s_tir.Schedule, out, row_tiles: int, read: TableRead, feature_major: bool, rows: int
) -> None:
    *_, first, second = sch.get_loops(out)
    if not feature_major:
        sch.vectorize(second)  # Q outputs of one row
        return
    sch.unroll(first)
    lane = sch.split(second, [row_tiles * read.rows // _EPILOGUE_LANES, _EPILOGUE_LANES])[1]
    if rows % _EPILOGUE_LANES:
        sch.annotate(lane, POSITIONS, rows)
    else:
        sch.vectorize(lane)
