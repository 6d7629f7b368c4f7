"""Schedule of the tiled closest-centroid search: 16 rows to a vector, centroids broadcast, best kept in registers."""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import blocks_of, extent, iterations, kernel_of
from tvm_ext.tensor_intrin import Dot, Window, get_isa
from tvm_ext.tensor_intrin.interleave import interleave_intrin
from tvm_ext.tensor_intrin.regroup import regroup_intrin
from tvm_ext.threads import SHARES, worth_threads

NS_PER_PRODUCT = 1 / 150
"""Of the int8 search on x86, roughly: tells work that threads share from work that they do not."""
_MAX_UNROLL = 64
"""Elements of a subvector up to which the loops over them are unrolled."""
_RUN = 4
"""Inputs of a row that are quantized together."""
PREFETCH = "lut.prefetch_table"
"""Annotation of the loop over the codebooks of a group, see `PrefetchTables`."""


class EncodeTiled(ScheduleRule):
    """Schedules PrimFuncs of kind ``encode_tiled``.

    For every tile of codes, 16 rows of one codebook's subvectors are collected (no im2col beyond that), scored against
    each centroid, and the best kept.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        kernel = kernel_of(func, "encode_tiled")
        if kernel is None:
            return None
        isa = get_isa(str(kernel["isa"]))
        dot = isa.dot_for(str(kernel["encode_dtype"]))
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        codes, best, score, subvector = (blocks[f"lut_{n}"] for n in ("codes", "best", "score", "x"))
        b, tile, group, *_ = sch.get_loops(codes)
        if worth_threads(iterations(sch, score) * NS_PER_PRODUCT):
            if extent(sch, b) * extent(sch, tile) >= SHARES:
                sch.parallel(sch.fuse(b, tile))
            else:
                sch.reorder(group, b, tile)
                sch.parallel(group)
                group = tile
        sch.compute_at(best, group, preserve_unit_loops=True)
        c, n, k = sch.get_loops(best)[-3:]
        block, lane = sch.split(n, [None, dot.block])
        sch.reorder(block, c, k, lane)
        sch.vectorize(lane)
        sch.annotate(c, PREFETCH, 1)
        sch.compute_at(score, k, preserve_unit_loops=True)
        sch.compute_at(subvector, c, preserve_unit_loops=True)
        sch.decompose_reduction(best, k)
        sch.unroll(k)
        schedule_score(sch, score, dot, dot.intrin)
        loader = str(kernel["loader"])
        if loader == "regroup":
            sch.compute_at(blocks["lut_quantized"], c, preserve_unit_loops=True)
            *_, r, lane, i = sch.get_loops(blocks["lut_quantized"])
            for loop in (r, lane):  # else LLVM may vectorize across rows, with gathers
                sch.unroll(loop)
            sch.vectorize(i)
            _schedule_regroup(sch, subvector, dot)
        elif loader == "window":
            _schedule_window(sch, subvector, isa.window_of(str(kernel["encode_dtype"]), int(kernel["window_rows"])))
        elif _quantizes_runs(sch, subvector, kernel, dot):
            t, lane, i = sch.get_loops(subvector)[-3:]
            sch.reorder(lane, t, i)
            parts, run = sch.split(t, [None, _RUN])
            sch.vectorize(run)
            if extent(sch, parts) <= _MAX_UNROLL // _RUN:
                sch.unroll(parts)
        else:
            t, lane, i = sch.get_loops(subvector)[-3:]
            if extent(sch, t) * extent(sch, i) <= _MAX_UNROLL:
                sch.unroll(t)
            if loader == "interleave":
                sch.tensorize(lane, interleave_intrin(dot.block, dot.depth, str(func.params[0].ty.dtype), dot.x_dtype))
            else:
                sch.reorder(lane, t, i)
                sch.unroll(i)
        return sch


def _quantizes_runs(sch: s_tir.Schedule, subvector, kernel, dot: Dot) -> bool:
    """Whether inputs are quantized where they are collected and lie side by side: one vector at a time, as LLVM for Arm
    makes branches or moves of flags of the bounds of single ones."""
    t = sch.get_loops(subvector)[-3]
    direct = not str(kernel["loader"]) and str(kernel["encode_dtype"]) != "float32" and bool(int(kernel["contiguous"]))
    return direct and dot.depth == 1 and extent(sch, t) % _RUN == 0


def schedule_score(sch: s_tir.Schedule, score, dot: Dot, intrin: str) -> None:
    """Products of a vector of lanes (loops: lanes, steps, elements of a step), added up by `intrin`, or plain code."""
    lane, t, i = sch.get_loops(score)[-3:]
    unroll = extent(sch, t) * extent(sch, i) <= _MAX_UNROLL
    if intrin:
        outer, rows = sch.split(lane, [None, dot.rows])
        sch.reorder(t, outer, rows, i)
        init = sch.decompose_reduction(score, t)
        # only the init reads the bias, which is second behind the sum itself
        sch.unsafe_hide_buffer_access(score, "read", [1])
        sch.tensorize(rows, intrin)
        sch.unroll(outer)
        outer, rows = sch.get_loops(init)[-2:]
        sch.unroll(outer)
        sch.vectorize(rows)
    else:
        sch.reorder(t, i, lane)
        sch.vectorize(lane)
        init = sch.decompose_reduction(score, t)
        sch.vectorize(sch.get_loops(init)[-1])
    if unroll:
        sch.unroll(t)


def _schedule_regroup(sch: s_tir.Schedule, subvector, dot: Dot) -> None:
    t = sch.get_loops(subvector)[-3]
    sch.tensorize(sch.split(t, [None, 4])[1], regroup_intrin(dot.x_dtype, dot.block))


def _schedule_window(sch: s_tir.Schedule, subvector, window: Window) -> None:
    t, lane, i, _ = sch.get_loops(subvector)[-4:]
    if extent(sch, t) * extent(sch, i) <= _MAX_UNROLL:
        sch.unroll(t)
    if window.depth == 1:
        sch.reorder(i, lane)  # the intrinsic's meaning has no loop over a single slot
    if window.rows < extent(sch, lane):
        parts, lane = sch.split(lane, [None, window.rows])
        sch.unroll(parts)
    init = sch.decompose_reduction(subvector, i if window.depth == 1 else lane)
    sch.tensorize(lane, window.intrin)
    sch.vectorize(sch.fuse(*sch.get_loops(init)[-2:]))
