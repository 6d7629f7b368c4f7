"""AArch64 with the dot-product extension (armv8.2-a, Cortex-A75 and later): tbl over a pair of codebooks, sdot."""

from __future__ import annotations

from dataclasses import replace

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin import neon
from tvm_ext.tensor_intrin._tbl import pair
from tvm_ext.tensor_intrin.desc import dot_desc, table_read_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, llvm_intrinsic

ISA: Isa = replace(
    neon.ISA,
    name="neon_dotprod",
    requires=("neon", "dotprod"),
    rank=20,
    product=Product(
        bytes=16, tiles=16, dot="llvm.aarch64.neon.sdot.v4i32.v16i8", shuffle="llvm.aarch64.neon.tbl1.v16i8",
        level_dtype="int8",
    ),
    # 8 tiles are 16 accumulators: tbl takes neighbouring registers, and LLVM copies accumulators when few are free
    table_read=TableRead(
        "lut_read_neon_pair", rows=16, group=2, acc_dtype="int16", order="row_codebook", tiles=8, code_offset=16,
        load_cost=0.1, step=8,
    ),
    dot=Dot("lut_dot_neon", rows=4, depth=4, x_dtype="int8", c_dtype="int8"),
    by_element=True,
    manual="https://developer.arm.com/architectures/instruction-sets/intrinsics/vdotq_s32",
)  # fmt: skip


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), pair())
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), dot_impl())


def dot_impl() -> PrimFunc:
    """Four rows, four products each, in one sdot."""
    sdot = llvm_intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8")

    @T.prim_func(s_tir=True)
    def impl(
        x: T.Buffer((4, 4), "int8", offset_factor=1),
        c: T.Buffer((4,), "int8", offset_factor=1),
        acc: T.Buffer((4,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:4], x[0:4, 0:4], c[0:4])
            T.writes(acc[0:4])
            centroid: T.let = T.broadcast(T.reinterpret("int32", c.vload([0], "int8x4")), 4)
            acc[T.ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
                "int32x4", sdot, acc[T.ramp(0, 1, 4)], x.vload([0, 0], "int8x16"), T.reinterpret("int8x16", centroid)
            )

    return impl
