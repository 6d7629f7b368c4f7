"""AArch64 NEON (every armv8-a core): tbl over one codebook of 16 rows, widening add to int16 (saddw, saddw2)."""

from __future__ import annotations

from tvm import s_tir

from tvm_ext.tensor_intrin._tbl import one_codebook
from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.spec import PLAIN_DOT, ROW_READ, Isa, Product, TableRead, Tree

ISA = Isa(
    name="neon",
    arch="aarch64",
    requires=("neon",),
    rank=10,
    table_read=TableRead("lut_read_neon", rows=16, group=1, acc_dtype="int16", order="row", tiles=6, step=16),
    product=Product(bytes=16, tiles=20, shuffle="llvm.aarch64.neon.tbl1.v16i8", level_dtype="int8"),
    dot=PLAIN_DOT,  # int16 products into int32 lanes: LLVM selects smlal, smlal2
    row_read=ROW_READ,
    tree=Tree("llvm.aarch64.neon.tbl1.v16i8", wraps=False),
    manual="https://developer.arm.com/architectures/instruction-sets/intrinsics/vqtbl1q_s8",
)


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), one_codebook())
