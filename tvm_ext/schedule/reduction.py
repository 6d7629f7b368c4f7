"""Schedules of sums, maxima and the like: softmax, norms, means, pooling."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir
from tvm.ir import Var
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import ScheduleError
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import (
    REDUCTION,
    child_blocks,
    divisors,
    extent,
    is_reduction,
    largest_divisor,
    loops_of,
    product,
    vectorize,
)
from tvm_ext.schedule.elementwise import PARALLEL_FROM
from tvm_ext.target import vector_unit

_SUMS = 4
"""Vectors of sums that are kept at once: each has to wait for itself."""
_FEW_SUMS = 4
"""So many are added one by one."""


class RowReduction(ScheduleRule):
    """Schedules PrimFuncs that reduce the last axes of rows, and may compute rows from that: softmax, norms, means.

    Everything is computed row by row, rows in parallel; a reduction keeps vectors of sums, added up at its end.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = child_blocks(sch)
        reductions = [block for block in blocks if is_reduction(sch, block)]
        if not reductions or not all(_along_rows(sch, block) for block in reductions):
            return None
        try:
            _schedule_rows(sch, blocks, reductions, vector_unit(target).lanes)
        except ScheduleError:
            return None
        return sch


class LaneReduction(ScheduleRule):
    """Schedules PrimFuncs with one reduction over other axes than the last: pooling, means over channels-last maps.

    The last axis is in vector lanes, and a vector of results stays in registers through the reduction.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = child_blocks(sch)
        reductions = [block for block in blocks if is_reduction(sch, block)]
        if len(reductions) != 1:
            return None
        (reduction,) = reductions
        at = [str(sch.get(b).name_hint) for b in blocks].index(str(sch.get(reduction).name_hint))
        try:
            for block in [*blocks[:at], *blocks[at + 1 : -1]]:
                sch.compute_inline(block)
            schedule_lanes(sch, reduction, vector_unit(target).lanes, blocks[-1] if at + 1 < len(blocks) else None)
        except ScheduleError:
            return None
        return sch


def schedule_lanes(sch: s_tir.Schedule, reduction, lanes: int, last=None) -> None:
    """One reduction with its last spatial axis in lanes; `last`, if given, is what is computed from it."""
    spatial, reduce = loops_of(sch, reduction)
    if not spatial:
        raise ScheduleError("no axis for lanes")
    size, inner = product(sch, spatial + reduce), extent(sch, spatial[-1])
    width = next((w for w in (_SUMS * lanes, lanes, lanes // 2, lanes // 4) if w and inner % w == 0), lanes)
    outer, lane = sch.split(spatial[-1], [None, min(width, inner)])
    sch.reorder(*spatial[:-1], outer, *reduce, lane)
    task = sch.fuse(*spatial[:-1], outer)
    if size >= PARALLEL_FROM:
        sch.parallel(task)
    if last is not None:
        sch.reverse_compute_at(last, task, preserve_unit_loops=True)
        vectorize(sch, sch.get_loops(last)[-1], lanes)
    if inner % min(width, inner) == 0:
        sch.vectorize(lane)
    init = sch.decompose_reduction(reduction, reduce[0])
    if inner % min(width, inner) == 0:
        sch.vectorize(sch.get_loops(init)[-1])


def _along_rows(sch: s_tir.Schedule, block) -> bool:
    """Whether the reduction runs along the lines of the largest tensor it reads."""
    info = sch.get(block)
    reads = [read for read in info.reads if len(read.region)]
    if not reads:
        return False
    used: list[Var] = []
    tvm_ffi.structural_walk(max(reads, key=lambda r: len(r.region)).region[-1].min, (Var, used.append))
    kinds = {var.var: int(var.iter_type) for var in info.iter_vars}
    return bool(used) and all(kinds.get(var) == 2 for var in used)


def _schedule_rows(sch: s_tir.Schedule, blocks: list, reductions: list, lanes: int) -> None:
    for block in blocks:
        if not sch.get_loops(block):  # `rfactor` fails beside a block without any
            sch.add_unit_loop(block)
    axes = min(len(loops_of(sch, block)[0]) for block in reductions)
    size = max(product(sch, sch.get_loops(block)) for block in blocks)
    names = {str(sch.get(block).name_hint) for block in reductions}
    sums, order = [], []
    for block in blocks:
        if str(sch.get(block).name_hint) in names:
            spatial, reduce = loops_of(sch, block)
            if product(sch, spatial[axes:]) > 1:
                raise ScheduleError("rows of different kinds")
            made = _split_sums(sch, block, reduce, lanes)
            sums += made
            order += made
        order.append(block)
    rows = sch.get_loops(order[-1])[:axes]
    if rows:
        row = sch.fuse(*rows)
        if size >= PARALLEL_FROM and extent(sch, row) > 1:
            sch.parallel(row)
        for block in reversed(order[:-1]):
            sch.compute_at(block, row, preserve_unit_loops=True)
    for block in sums:
        terms, lane = _terms_and_lane(sch, block)
        sch.reorder(terms, lane)
        sch.vectorize(lane)
        init = sch.decompose_reduction(block, terms)
        sch.vectorize(next(loop for loop in reversed(sch.get_loops(init)) if extent(sch, loop) > 1))
    for block in order:
        if not is_reduction(sch, block):
            loops = sch.get_loops(block)[1 if rows else 0 :]
            wide = [loop for loop in loops if extent(sch, loop) > 1]
            if wide:
                vectorize(sch, wide[-1], lanes)


def _terms_and_lane(sch: s_tir.Schedule, block) -> tuple:
    """The two loops of a block of vectors that run; `compute_at` orders loops, and those of one step, as it likes."""
    loops = sch.get_loops(block)
    realize = sch.get(loops[-1]).body
    summed: list[Var] = []
    for value, var in zip(realize.iter_values, realize.block.iter_vars, strict=True):
        if int(var.iter_type) == REDUCTION:
            tvm_ffi.structural_walk(value, (Var, summed.append))
    at = next(i for i, loop in enumerate(loops) if any(sch.get(loop).loop_var.same_as(var) for var in summed))
    return loops[at], next(loop for i, loop in reversed([*enumerate(loops)]) if i != at and extent(sch, loop) > 1)


def _split_sums(sch: s_tir.Schedule, block, reduce: list, lanes: int) -> list:
    """Make a reduction add up vectors, then about quarters of a vector until few sums are left, and last these.

    Vectors divide the row, for `compute_at` forgets the condition of a rest; where nothing does, sums stay scalar.
    Returns the blocks of vectors.
    """
    loop = sch.fuse(*reduce)
    size = extent(sch, loop)
    widths = [width for width in divisors(size) if _FEW_SUMS <= width <= _SUMS * lanes and width < size]
    if not widths:
        return []
    width = max(widths, key=lambda w: (w / (-(-w // lanes) * lanes), w))  # the least idle lanes
    lane = sch.split(loop, [None, width])[1]
    axis, made = len(sch.get_loops(block)) - 2, []
    while True:
        made.append(sch.rfactor(lane, factor_axis=axis))
        width = largest_divisor(width, max(1, width // _FEW_SUMS))
        if width == 1:
            return made
        lane = sch.split(sch.get_loops(block)[-1], [None, width])[1]
