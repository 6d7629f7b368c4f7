"""Schedule of what no other rule knows: never good, never absurd."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.schedule import ScheduleError
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import child_blocks, extent, is_reduction
from tvm_ext.schedule.elementwise import schedule_map
from tvm_ext.schedule.reduction import schedule_lanes
from tvm_ext.target import vector_unit


class Fallback(ScheduleRule):
    """Schedules every block by itself: outer loops in parallel, the last axis in lanes, sums in registers.

    A block that refuses this runs in parallel where it can, and else as it is.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = child_blocks(sch)
        if not blocks:
            return None
        lanes = vector_unit(target).lanes
        for name in [str(sch.get(block).name_hint) for block in blocks]:
            trial = sch.copy()
            for schedule in (_whole, _parallel_only):
                try:
                    schedule(trial, trial.get_sblock(name), lanes)
                except (ScheduleError, ValueError):
                    trial = sch.copy()
                    continue
                sch = trial
                break
        return sch


def _whole(sch: s_tir.Schedule, block, lanes: int) -> None:
    if is_reduction(sch, block):
        schedule_lanes(sch, block, lanes)
    else:
        schedule_map(sch, block, lanes)


def _parallel_only(sch: s_tir.Schedule, block, lanes: int) -> None:
    loop = next((loop for loop in sch.get_loops(block) if extent(sch, loop) > 1), None)
    if loop is not None:
        sch.parallel(loop)
