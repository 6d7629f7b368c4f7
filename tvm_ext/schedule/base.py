"""What the schedule rules share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import s_tir
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import PrimFunc

from tvm_ext.compute.kernel import KERNEL_ATTR

SPATIAL, REDUCTION = 0, 2
"""`iter_type` of a block's variables."""


def kernel_of(func: PrimFunc, kind: str) -> Mapping | None:
    """What `func` computes (see `emit_kernel`) if it is a lut PrimFunc of `kind`, else None."""
    info = func.attrs.get(KERNEL_ATTR) if func.attrs is not None else None
    return info if info is not None and str(info["kind"]) == kind else None


def blocks_of(sch: s_tir.Schedule) -> dict[str, s_tir.schedule.SBlockRV]:
    """The blocks of the PrimFunc by name."""
    children = sch.get_child_blocks(sch.get_sblock("root"))
    return {str(sch.get(block).name_hint): block for block in children}


def smallest_divisor(value: int, least: int) -> int:
    """The smallest divisor of `value` that is at least `least`, or `value`."""
    return next(d for d in range(min(max(least, 1), value), value + 1) if value % d == 0)


def extent(sch: s_tir.Schedule, loop) -> int:
    return int(sch.get(loop).extent)


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of `value` that is at most `limit`."""
    return next(d for d in range(min(value, limit), 0, -1) if value % d == 0)


def iterations(sch: s_tir.Schedule, block) -> int:
    """How often `block` runs, before it was scheduled."""
    return math.prod(extent(sch, loop) for loop in sch.get_loops(block))


def choose(sch: s_tir.Schedule, default, candidates: Sequence, tunable: bool):
    """`default`, or with `tunable` one of `candidates` at random: a space for searches that apply the rule anew."""
    if not tunable:
        return default
    index = sch.sample_categorical(list(range(len(candidates))), [1 / len(candidates)] * len(candidates))
    return candidates[int(sch.get(index))]


def divisors(value: int) -> list[int]:
    return [d for d in range(1, value + 1) if value % d == 0]


def child_blocks(sch: s_tir.Schedule) -> list:
    """The blocks of the PrimFunc in order; none where its body is not made of blocks."""
    try:
        return list(sch.get_child_blocks(sch.get_sblock("root")))
    except (ValueError, ScheduleError):
        return []


def loops_of(sch: s_tir.Schedule, block) -> tuple[list, list]:
    """The spatial loops of a block that nothing was done to yet, and its reduction loops; they must come in this order.

    Raises ScheduleError if they do not.
    """
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    loops, count = sch.get_loops(block), kinds.count(SPATIAL)
    if len(loops) != len(kinds) or kinds != [SPATIAL] * count + [REDUCTION] * (len(kinds) - count):
        raise ScheduleError("loops of a block in an unusual order")
    return loops[:count], loops[count:]


def is_reduction(sch: s_tir.Schedule, block) -> bool:
    return any(int(var.iter_type) == REDUCTION for var in sch.get(block).iter_vars)


def product(sch: s_tir.Schedule, loops: list) -> int:
    """Iterations of all the loops together."""
    return math.prod(extent(sch, loop) for loop in loops)


def vectorize(sch: s_tir.Schedule, loop, lanes: int) -> list:
    """Run `loop` in vectors of `lanes`, with a scalar rest where they do not divide it; returns the loops it became."""
    size = extent(sch, loop)
    if size <= lanes:
        sch.vectorize(loop)
        return [loop]
    outer, lane = sch.split(loop, [None, lanes])
    if size % lanes:
        sch.annotate(outer, "pragma_loop_partition_hint", 1)
    sch.vectorize(lane)
    return [outer, lane]
