"""Schedules of the row-wise kernels: few rows, more than 16 centroids, or tables that are not int8."""

from __future__ import annotations

import math

import tvm
from tvm import s_tir
from tvm.s_tir.dlight import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import blocks_of, choose, divisors, extent, iterations, kernel_of, largest_divisor
from tvm_ext.schedule.encode import schedule_score
from tvm_ext.target import best_isa
from tvm_ext.tensor_intrin import get_isa
from tvm_ext.tensor_intrin.horizontal_max import horizontal_max_intrin
from tvm_ext.threads import worth_threads

_LANES = 16
_NS_PER_ENTRY, _NS_PER_PRODUCT = 1 / 30, 1 / 10
"""Of table rows added up and of products on x86, roughly: tells work that threads share from work that they do not."""


class LookupGather(ScheduleRule):
    """Schedules PrimFuncs of kind ``lookup_gather``: a row's codes pick table rows, outputs lie in vector lanes."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        if kernel_of(func, "lookup_gather") is None:
            return None
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        acc = blocks["lut_acc"]
        b, n, m, c = sch.get_loops(acc)
        work = iterations(sch, acc) * _NS_PER_ENTRY
        outputs = extent(sch, m)
        wide = [d for d in divisors(outputs) if d <= 8 * _LANES]
        lanes = choose(sch, _gather_lanes(outputs, _accumulator_lanes(sch, acc, target)), wide, tunable)
        mo, mi = sch.split(m, [None, lanes])
        sch.reorder(b, n, mo, c, mi)
        rows = sch.fuse(b, n, mo)
        if worth_threads(work):
            sch.parallel(rows)
        sch.vectorize(mi)
        for name in ("lut_out", "lut_quantized"):
            if name in blocks:
                sch.reverse_compute_at(blocks[name], rows, preserve_unit_loops=True)
        init = sch.decompose_reduction(acc, c)
        sch.vectorize(sch.get_loops(init)[-1])
        return sch


def _accumulator_lanes(sch: s_tir.Schedule, acc, target: Target) -> int:
    """Sums that eight vector registers hold; as many rows of the table are read side by side."""
    size = tvm.DataType(str(sch.get(acc).writes[0].source.dtype)).itemsize
    return 8 * best_isa(target).float_lanes * 4 // size


def _gather_lanes(outputs: int, limit: int) -> int:
    """Outputs of a vector: a power of two where one of some length divides them (LLVM splits no others evenly)."""
    power = math.gcd(outputs, limit)
    return power if power >= 4 else largest_divisor(outputs, 4 * _LANES)


class EncodeFewRows(ScheduleRule):
    """Schedules PrimFuncs of kind ``encode_few_rows``: a subvector at a time, against 16 centroids in a vector."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        kernel = kernel_of(func, "encode_few_rows")
        if kernel is None:
            return None
        dot = get_isa(str(kernel["isa"])).dot
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        codes, best, ranked, score, subvector = (blocks[f"lut_{n}"] for n in ("codes", "best", "ranked", "score", "x"))
        work = iterations(sch, score) * _NS_PER_PRODUCT / _LANES
        n, c = sch.get_loops(codes)
        if worth_threads(work):
            sch.parallel(n)
        sch.vectorize(sch.split(c, [None, largest_divisor(extent(sch, c), _LANES)])[1])
        sch.compute_at(best, n, preserve_unit_loops=True)
        *_, c, k = sch.get_loops(best)
        for block in (ranked, score, subvector):
            sch.compute_at(block, c, preserve_unit_loops=True)
        sch.decompose_reduction(best, k)
        sch.tensorize(k, horizontal_max_intrin())
        sch.vectorize(sch.get_loops(ranked)[-1])
        schedule_score(sch, score, dot, dot.lanes_intrin)
        i = sch.get_loops(subvector)[-1]
        sch.vectorize(sch.split(i, [None, largest_divisor(extent(sch, i), _LANES)])[1])
        return sch


class EncodeRowwise(ScheduleRule):
    """Schedules PrimFuncs of kind ``encode_rowwise``: one subvector at a time against all its centroids."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        kernel = kernel_of(func, "encode_rowwise")
        if kernel is None:
            return None
        sch = s_tir.Schedule(func)
        blocks = blocks_of(sch)
        best, score, subvector = (blocks[f"lut_{n}"] for n in ("best", "score", "x"))
        b, n, c, _ = sch.get_loops(best)
        work = iterations(sch, score) * _NS_PER_PRODUCT
        rows = sch.fuse(b, n)
        if worth_threads(work):
            sch.parallel(rows)
        sch.compute_at(score, c, preserve_unit_loops=True)
        sch.compute_at(subvector, c, preserve_unit_loops=True)
        k, v = sch.get_loops(score)[-2:]
        _, lanes = sch.split(k, [None, largest_divisor(extent(sch, k), _LANES)])
        sch.reorder(v, lanes)
        sch.vectorize(lanes)
        init = sch.decompose_reduction(score, v)
        sch.vectorize(sch.get_loops(init)[-1])
        if int(kernel["contiguous"]):
            i = sch.get_loops(subvector)[-1]
            sch.vectorize(sch.split(i, [None, largest_divisor(extent(sch, i), _LANES)])[1])
        return sch
