"""Schedule of float matmuls and convolutions: sums of a register tile over packed weights, then what follows them."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.compute.float_conv2d import ACC, PAD
from tvm_ext.compute.float_matmul import PACK
from tvm_ext.compute.register_tile import FEW_PASSES, RegisterTile
from tvm_ext.schedule.base import SPATIAL, child_blocks, choose, divisors, extent, largest_divisor, product, vectorize
from tvm_ext.schedule.elementwise import schedule_map
from tvm_ext.target import vector_unit

_RESIDENT_BYTES = 256 << 10
"""Weights up to this size stay in the second-level cache while the rows go by, so that these need to come once."""
_SHARED_BY, _MOST_SHARED = (8, FEW_PASSES), 64
"""Numbers of tiles that a block's weights are read for, between which fetching the next block's ahead pays; the second
lower limit is for sums on the stack. Where one tile is all there is, weights are fetched a little ahead."""
_BURST, _SHORT_BURST = 128, 16
"""Steps of a sum between two prefetches where sums leave the registers for these; the second where what is fetched is
used soon."""
_MAX_ROWS = 16
"""Widest tile of a search."""
_TASKS = 8
"""Lines from which on there are enough for threads."""
_SHALLOW = 64
"""Terms of a sum up to which a line's border is made for one block of outputs only: that of a depthwise convolution."""
_PARALLEL_FROM = 1 << 19
"""Multiply-adds from which on a kernel starts threads."""
PREFETCH = "lut.prefetch"
"""Annotation of a loop: height and width of a tile, lines and columns of tiles that share one block of weights, and the
terms of a sum that one iteration adds."""


class Contraction(ScheduleRule):
    """Schedules PrimFuncs with a block "float_acc" (see `compute.float_conv2d` and `compute.float_matmul`).

    The block's loops end with height, width, blocks of outputs, outputs of a block; then come the reductions.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = {str(sch.get(block).name_hint): block for block in child_blocks(sch)}
        if ACC not in blocks:
            return None
        acc, pads = blocks[ACC], [blocks[name] for name in (PAD, PACK) if name in blocks]
        *others, last = (block for name, block in blocks.items() if name not in (ACC, PAD, PACK))
        for block in others:
            sch.compute_inline(block)
        tile = RegisterTile(*(int(v) for v in sch.get(acc).annotations["lut.tile"]))
        sch.unannotate(acc, "lut.tile")
        if "lut.consecutive" in sch.get(acc).annotations:
            sch.unannotate(acc, "lut.consecutive")
            sch.fuse(*sch.get_loops(acc)[-2:])
        _schedule_sums(sch, acc, last, pads, tile, vector_unit(target).lanes, tunable)
        return sch


def _schedule_sums(
    sch: s_tir.Schedule, acc, last, pads: list, tile: RegisterTile, lanes: int, tunable: bool
) -> None:  # fmt: skip
    loops, axes = sch.get_loops(acc), [int(var.iter_type) for var in sch.get(acc).iter_vars].count(SPATIAL)
    (*outer, high, wide, block, out), reduce = loops[:axes], loops[axes:]
    work, depth = product(sch, sch.get_loops(acc)), product(sch, reduce)
    resident = depth * extent(sch, block) * tile.outputs * 4 <= _RESIDENT_BYTES
    resident = choose(sch, resident, [False, True], tunable)
    width = choose(sch, tile.width, [w for w in divisors(extent(sch, wide)) if w <= _MAX_ROWS], tunable)
    ho, hi = sch.split(high, [None, tile.height])
    wo, wi = sch.split(wide, [None, width])
    vector, lane = sch.split(out, [None, tile.lanes])
    lines, columns = product(sch, [*outer, ho]), extent(sch, wo)
    passes, small = lines * columns, RegisterTile(tile.height, width, tile.vectors, tile.lanes).on_stack
    if not resident and (passes == 1 or _SHARED_BY[small] <= passes <= _MOST_SHARED):
        most = _SHORT_BURST if passes == 1 else _BURST
        burst = 1 if small else largest_divisor(extent(sch, reduce[-1]), most)
        steps, step = sch.split(reduce[-1], [None, burst])
        sch.annotate(steps, PREFETCH, [tile.height, width, lines, columns, burst])
        reduce[-1:] = [steps, step]
    alone = resident and lines >= _TASKS  # a task is a line with all its outputs: then it can make its own border
    order = [*outer, ho, block] if resident else [block, *outer, ho]
    sch.reorder(*order, wo, *reduce, hi, wi, vector, lane)
    task = sch.fuse(*order[:-1]) if alone else sch.fuse(*order)
    if work >= _PARALLEL_FROM:
        sch.parallel(task)
    for pad in pads:
        if alone:
            sch.compute_at(pad, block if depth <= _SHALLOW else task, preserve_unit_loops=True)
            vectorize(sch, sch.get_loops(pad)[-1], lanes)
        else:
            schedule_map(sch, pad, lanes)
    sch.reverse_compute_at(last, wo, preserve_unit_loops=True)
    for loop in (hi, wi, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    *unrolled, lane = sch.get_loops(sch.decompose_reduction(acc, reduce[0]))[-4:]
    sch.vectorize(lane)
    *_, rows, outputs = sch.get_loops(last)
    *vectors, _ = vectorize(sch, outputs, tile.lanes)
    for loop in (*unrolled, rows, *vectors):
        sch.unroll(loop)
