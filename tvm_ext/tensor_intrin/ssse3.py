"""SSSE3: pshufb on 128-bit registers."""

from __future__ import annotations

from tvm import s_tir

from tvm_ext.tensor_intrin._shuffle_madd import byte_window, dot_impl, pairs_by_madd, table_read_impl, window_impl
from tvm_ext.tensor_intrin.desc import dot_desc, table_read_desc, window_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, Tree

_WINDOW = byte_window("lut_window_ssse3", rows=4)
ISA = Isa(
    name="ssse3",
    arch="x86",
    requires=("ssse3",),
    rank=10,
    table_read=TableRead("lut_read_ssse3", rows=16, group=2, acc_dtype="int16", order="unpack", tiles=3),
    dot=Dot("lut_dot_ssse3", rows=4, depth=2, x_dtype="int16", c_dtype="int16"),
    window=_WINDOW,
    product=Product(
        bytes=16, tiles=8, madd="llvm.x86.ssse3.pmadd.ub.sw.128", pair="llvm.x86.sse2.pmadd.wd",
        shuffle="llvm.x86.ssse3.pshuf.b.128", fused=False,
    ),
    tree=Tree("llvm.x86.ssse3.pshuf.b.128"),
    manual="https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html#text=pshufb",
)  # fmt: skip


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    read = table_read_impl(ISA.table_read, ISA.product.shuffle, pairs_by_madd(ISA.product))
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), read)
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), dot_impl(ISA.dot, "llvm.x86.sse2.pmadd.wd"))
    window = window_impl(_WINDOW, "llvm.x86.ssse3.pshuf.b.128")
    s_tir.TensorIntrin.register(_WINDOW.intrin, window_desc(_WINDOW), window)
