"""In-order AArch64 cores with dot products (Cortex-A55): plain NEON's table read, sdot for closest-centroid search."""

from __future__ import annotations

from dataclasses import replace

from tvm_ext.tensor_intrin import neon, neon_dotprod
from tvm_ext.tensor_intrin.spec import Isa

ISA: Isa = replace(neon_dotprod.ISA, name="neon_little", core="little", rank=21, table_read=neon.ISA.table_read)


def register() -> None:
    """Nothing of its own: the intrinsics are those of `neon` and `neon_dotprod`."""
