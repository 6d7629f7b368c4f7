"""Schedule of float matmuls and convolutions: sums of a register tile over packed weights, then what follows them."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.compute.float_conv2d import ACC, PAD
from tvm_ext.compute.float_matmul import PACK
from tvm_ext.compute.register_tile import RegisterTile
from tvm_ext.schedule.base import child_blocks, extent, largest_divisor, loops_of, product, vectorize
from tvm_ext.schedule.elementwise import schedule_map
from tvm_ext.target import vector_unit

_RESIDENT_BYTES = 256 << 10
"""Weights up to this size stay in the second-level cache while the rows go by, so that these need to come once."""
_SHARED_BY = (8, 64)
"""Numbers of tiles that a block's weights are read for, between which fetching the next block's ahead pays."""
_BURST = 128
"""Steps of a sum between two prefetches: sums are in registers only where no prefetch is in between."""
PREFETCH = "lut.prefetch"
"""Annotation of a loop: height and width of a tile, lines and columns of tiles that share one block of weights."""


class Contraction(ScheduleRule):
    """Schedules PrimFuncs with a block "float_acc" (see `compute.float_conv2d` and `compute.float_matmul`).

    The block's loops end with height, width, blocks of outputs, outputs of a block; then come the reductions.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = {str(sch.get(block).name_hint): block for block in child_blocks(sch)}
        if ACC not in blocks:
            return None
        acc = blocks[ACC]
        *others, last = (block for name, block in blocks.items() if name not in (ACC, PAD, PACK))
        lanes = vector_unit(target).lanes
        for block in others:
            sch.compute_inline(block)
        for name in (PAD, PACK):
            if name in blocks:
                schedule_map(sch, blocks[name], lanes)
        tile = RegisterTile(*(int(v) for v in sch.get(acc).annotations["lut.tile"]))
        sch.unannotate(acc, "lut.tile")
        spatial, reduce = loops_of(sch, acc)
        *outer, high, wide, block, out = spatial
        resident = product(sch, [block, out, *reduce]) * 4 <= _RESIDENT_BYTES
        ho, hi = sch.split(high, [None, tile.height])
        wo, wi = sch.split(wide, [None, tile.width])
        vector, lane = sch.split(out, [None, tile.lanes])
        order = [*outer, ho, block] if resident else [block, *outer, ho]
        lines, columns = product(sch, [*outer, ho]), extent(sch, wo)
        if not resident and _SHARED_BY[0] <= lines * columns <= _SHARED_BY[1]:
            steps, step = sch.split(reduce[-1], [None, largest_divisor(extent(sch, reduce[-1]), _BURST)])
            sch.annotate(steps, PREFETCH, [tile.height, tile.width, lines, columns])
            reduce[-1:] = [steps, step]
        sch.reorder(*order, wo, *reduce, hi, wi, vector, lane)
        task = sch.fuse(*order)
        sch.parallel(task)
        sch.reverse_compute_at(last, wo, preserve_unit_loops=True)
        for loop in (hi, wi, vector):
            sch.unroll(loop)
        sch.vectorize(lane)
        init = sch.decompose_reduction(acc, reduce[0])
        *unrolled, lane = sch.get_loops(init)[-4:]
        sch.vectorize(lane)
        for loop in unrolled:
            sch.unroll(loop)
        _schedule_epilogue(sch, last, tile)
        return sch


def _schedule_epilogue(sch: s_tir.Schedule, block, tile: RegisterTile) -> None:
    *_, rows, outputs = sch.get_loops(block)
    vectors = vectorize(sch, outputs, tile.lanes)
    for loop in (rows, *vectors[:-1]):
        sch.unroll(loop)
