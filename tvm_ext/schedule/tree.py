"""Schedule of the row-wise walk down hash trees: one subvector at a time, its node in a register."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import blocks_of, iterations, kernel_of
from tvm_ext.threads import worth_threads

_NS_PER_LEVEL = 1.0
_NODE = "lut_node"


class EncodeTree(ScheduleRule):
    """Schedules PrimFuncs of kind ``encode_tree``."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        if kernel_of(func, "encode_tree") is None:
            return None
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        codes, values = blocks.pop("lut_codes"), blocks.pop("lut_x")
        nodes = [name for name in blocks if name.startswith(_NODE)]  # the rest are copies into other shapes
        work = iterations(sch, values) * _NS_PER_LEVEL
        first, *rest = sch.get_loops(codes)
        innermost = rest[-1]
        if worth_threads(work):
            sch.parallel(sch.fuse(first, *rest[:-1]))
        for node in sorted(nodes, key=_level, reverse=True):
            sch.compute_at(blocks[node], innermost, preserve_unit_loops=True)
        sch.compute_at(values, innermost, preserve_unit_loops=True)
        sch.unroll(sch.get_loops(values)[-1])
        return sch


def _level(name: str) -> int:
    """Of the block "lut_node_3": 3; of the root's: -1."""
    return int(name.removeprefix(_NODE).removeprefix("_") or -1)
