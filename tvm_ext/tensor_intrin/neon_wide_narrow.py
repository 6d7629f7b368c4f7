"""AArch64 cores with four vector pipes of which two do tbl (Cortex-X1, Neoverse V1), for narrow tables.

Two pairs of codebooks are read and added in int8, which any pipe does, before one sadalp, which only two do.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import s_tir

from tvm_ext.tensor_intrin import neon_dotprod
from tvm_ext.tensor_intrin._tbl import added_pairs
from tvm_ext.tensor_intrin.desc import table_read_desc
from tvm_ext.tensor_intrin.spec import Isa, TableRead

# 6 tiles are 12 accumulators: tbl takes neighbouring registers, and LLVM copies accumulators about when few are free
_READ = TableRead(
    "lut_read_neon_pairs",
    rows=16,
    group=4,
    acc_dtype="int16",
    order="pairs",
    tiles=6,
    code_offset=16,
    load_cost=0.1,
    preadd=2,
    step=8,
)
ISA: Isa = replace(neon_dotprod.ISA, name="neon_wide_narrow", core="wide", rank=22, table_read=_READ)


def register() -> None:
    """Register the table read; raises ValueError if LLVM lacks an intrinsic. The search is that of `neon_dotprod`."""
    s_tir.TensorIntrin.register(_READ.intrin, table_read_desc(_READ), added_pairs())
