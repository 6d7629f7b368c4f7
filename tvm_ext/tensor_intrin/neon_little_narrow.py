"""In-order AArch64 cores with dot products (Cortex-A55), for narrow tables: four codebooks are added in int8."""

from __future__ import annotations

from dataclasses import replace

from tvm import s_tir

from tvm_ext.tensor_intrin import neon_dotprod
from tvm_ext.tensor_intrin._tbl import added_codebooks
from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.spec import Isa, TableRead

_READ = TableRead(
    "lut_read_neon_added", rows=16, group=4, acc_dtype="int16", order="codebook_row", tiles=8, preadd=4, step=16
)  # fmt: skip
ISA: Isa = replace(neon_dotprod.ISA, name="neon_little_narrow", core="little", rank=22, table_read=_READ)


def register() -> None:
    """Register the table read; raises ValueError if LLVM lacks an intrinsic. The search is that of `neon_dotprod`."""
    s_tir.TensorIntrin.register(_READ.intrin, table_read_desc(_READ), added_codebooks(_READ.group))
