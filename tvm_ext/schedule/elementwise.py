"""Schedules of what computes each output by itself: activations, residuals, transposes, slices, padding."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import child_blocks, extent, is_reduction, product, vectorize
from tvm_ext.target import vector_unit

PARALLEL_FROM = 1 << 14
"""Elements from which on a kernel starts threads."""
_TILE = 16
"""Lines of a transpose that are read together, so that what a cache line holds is used before it leaves."""


class Elementwise(ScheduleRule):
    """Schedules PrimFuncs without reductions: one loop nest over the last block's result, everything before inlined."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = child_blocks(sch)
        if not blocks or any(is_reduction(sch, block) for block in blocks):
            return None
        for block in blocks[:-1]:
            sch.compute_inline(block)
        schedule_map(sch, blocks[-1], vector_unit(target).lanes)
        return sch


def schedule_map(sch: s_tir.Schedule, block, lanes: int) -> None:
    """A block without reductions: lines in parallel, the last axis in vectors."""
    loops = sch.get_loops(block)
    if not loops:
        return
    size = product(sch, loops)
    body = sch.get(block).body
    order = _order(sch, block) if isinstance(body, tirx.BufferStore) else None
    if order == "same" and len(loops) > 1:
        loops = [sch.fuse(*loops)]
    across = loops[order] if isinstance(order, int) else None
    *outer, last = loops
    if across is not None and extent(sch, last) > 1:
        lines, line = sch.split(across, [None, min(_TILE, extent(sch, across))])
        columns, column = sch.split(last, [None, min(_TILE, extent(sch, last))])
        at = outer.index(across)
        outer[at : at + 1] = [lines]
        sch.reorder(*outer, columns, line, column)
        outer.append(columns)
        vectorize(sch, column, lanes)
    else:
        vectors = vectorize(sch, last, lanes)
        outer += vectors[:-1] if not outer else []
    if outer and size >= PARALLEL_FROM:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])


def _order(sch: s_tir.Schedule, block) -> str | int | None:
    """How a block reads: "same" if all it reads is at the index it writes, or one value; the number of the loop that
    runs along the lines of what it reads, if that is not the last; None otherwise.
    """
    info = sch.get(block)
    own = [var.var for var in info.iter_vars]
    if not all(index.same_as(var) for index, var in zip(info.body.indices, own, strict=False)):
        return None
    loads: list[TensorLoad] = []
    tvm_ffi.structural_walk(info.body.value, (TensorLoad, loads.append))
    same, across = len(info.body.indices) == len(own), None
    for load in loads:
        indices = list(load.indices)
        if len(indices) != len(own) or not all(i.same_as(v) for i, v in zip(indices, own, strict=True)):
            same = same and all(isinstance(i, tirx.IntImm) for i in indices)
        for number, var in enumerate(own[:-1]):
            if indices and indices[-1].same_as(var) and extent(sch, sch.get_loops(block)[number]) > 1:
                across = number
    return "same" if same else across
