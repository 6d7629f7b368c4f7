"""The largest element of a vector of 16. For every ISA: LLVM makes shuffles and maxima of it, or one instruction."""

from __future__ import annotations

import functools

from tvm import s_tir
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.spec import llvm_intrinsic

LANES = 16


@functools.cache
def horizontal_max_intrin() -> str:
    """Name of the intrinsic ``best = max(best, vector)`` for int32; registered by the first call."""
    s_tir.TensorIntrin.register("lut_horizontal_max", horizontal_max_desc, horizontal_max_impl())
    return "lut_horizontal_max"


@T.prim_func(s_tir=True)
def horizontal_max_desc(
    vector: T.Buffer((LANES,), "int32", offset_factor=1), best: T.Buffer((1,), "int32", offset_factor=1)
):
    with T.sblock("root"):
        T.reads(best[0], vector[0:LANES])
        T.writes(best[0])
        for k in range(LANES):
            with T.sblock("max"):
                vk = T.axis.remap("R", [k])
                best[0] = T.max(best[0], vector[vk])


def horizontal_max_impl():
    reduce = llvm_intrinsic("llvm.vector.reduce.smax")

    @T.prim_func(s_tir=True)
    def impl(vector: T.Buffer((LANES,), "int32", offset_factor=1), best: T.Buffer((1,), "int32", offset_factor=1)):
        with T.sblock("root"):
            T.reads(best[0], vector[0:LANES])
            T.writes(best[0])
            best[0] = T.max(best[0], T.call_llvm_pure_intrin("int32", reduce, vector.vload([0], "int32x16")))

    return impl
