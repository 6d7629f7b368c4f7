"""Any LLVM target: the table read as a plain gather, one row at a time."""

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.spec import PLAIN_DOT, Isa, TableRead

ISA = Isa(
    name="generic",
    arch="",
    requires=(),
    rank=0,
    table_read=TableRead("lut_read_generic", rows=16, group=1, acc_dtype="int32", order="row", tiles=1),
    dot=PLAIN_DOT,
    manual="https://llvm.org/docs/LangRef.html",
)


def register() -> None:
    """Register the tensor intrinsic."""
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), _table_read())


def _table_read() -> PrimFunc:
    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16,), "uint8", offset_factor=1),
        table: T.Buffer((16,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16], table[0:16])
            T.writes(acc[0:16])
            for n in T.serial(16):
                acc[n] = acc[n] + T.cast(table[T.cast(code[n], "int32")], "int32")

    return impl
