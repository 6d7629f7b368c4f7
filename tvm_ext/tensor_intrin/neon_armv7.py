"""32-bit Arm with NEON (armv7-a: Cortex-A7, A9, A15): vtbl over a table in two registers, widening add to int16.

Vectors of 16 rows are two d registers. There are 16 q registers in all, so few accumulators stay in them. The search is
LLVM's: vmlal.s16 adds four products of a step; vmull.s8 and vpadal.s16 would take as many instructions.
"""

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.shuffle import shuffle
from tvm_ext.tensor_intrin.spec import PLAIN_DOT, Isa, Product, TableRead, Tree

_VTBL = "llvm.arm.neon.vtbl2"
ISA = Isa(
    name="neon_armv7",
    arch="arm",
    requires=("neon",),
    rank=10,
    table_read=TableRead("lut_read_armv7", rows=16, group=1, acc_dtype="int16", order="row", tiles=4),
    dot=PLAIN_DOT,
    product=Product(bytes=16, tiles=4, shuffle=_VTBL, fused=False, level_dtype="int8"),
    tree=Tree(_VTBL, wraps=False),
    manual="https://developer.arm.com/architectures/instruction-sets/intrinsics/vtbl2_s8",
)


def register() -> None:
    """Register the tensor intrinsic; raises ValueError if LLVM lacks one."""
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), _table_read())


def _table_read() -> PrimFunc:
    """acc int16[16] += table int8[16] at code uint8[16]."""

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16,), "uint8", offset_factor=1),
        table: T.Buffer((16,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16], table[0:16])
            T.writes(acc[0:16])
            acc[T.ramp(0, 1, 16)] = acc[T.ramp(0, 1, 16)] + T.cast(
                shuffle(_VTBL, table.vload([0], "int8x16"), T.reinterpret("int8x16", code.vload([0], "uint8x16")), 16),
                "int16x16",
            )

    return impl
