"""AArch64 NEON (every armv8-a core): tbl over one codebook of 16 rows, widening add to int16 (saddw, saddw2)."""

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.spec import PLAIN_DOT, Isa, Product, TableRead, llvm_intrinsic

ISA = Isa(
    name="neon",
    arch="aarch64",
    requires=("neon",),
    rank=10,
    table_read=TableRead("lut_read_neon", rows=16, group=1, acc_dtype="int16", order="row", tiles=6),
    product=Product(bytes=16, tiles=8, shuffle="llvm.aarch64.neon.tbl1.v16i8", level_dtype="int8"),
    dot=PLAIN_DOT,  # int16 products into int32 lanes: LLVM selects smlal, smlal2
    manual="https://developer.arm.com/architectures/instruction-sets/intrinsics/vqtbl1q_s8",
)


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), table_read_impl())


def table_read_impl() -> PrimFunc:
    """One tbl and two widening adds a codebook."""
    tbl = llvm_intrinsic("llvm.aarch64.neon.tbl1.v16i8")

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16,), "uint8", offset_factor=1),
        table: T.Buffer((16,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16], table[0:16])
            T.writes(acc[0:16])
            read: T.let = T.call_llvm_pure_intrin(
                "int8x16", tbl, table.vload([0], "int8x16"), T.reinterpret("int8x16", code.vload([0], "uint8x16"))
            )
            acc[T.ramp(0, 1, 16)] = acc[T.ramp(0, 1, 16)] + T.cast(read, "int16x16")

    return impl
