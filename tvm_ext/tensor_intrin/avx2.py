"""AVX2: vpshufb on 256-bit registers."""

from __future__ import annotations

from tvm import s_tir

from tvm_ext.tensor_intrin._shuffle_madd import byte_window, dot_impl, pairs_by_madd, table_read_impl, window_impl
from tvm_ext.tensor_intrin.desc import dot_desc, table_read_desc, window_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, Tree

_WINDOW, _NARROW = byte_window("lut_window_avx2", rows=8), byte_window("lut_window_avx2_narrow", rows=4)
ISA = Isa(
    name="avx2",
    arch="x86",
    requires=("avx2",),
    rank=20,
    table_read=TableRead("lut_read_avx2", rows=32, group=2, acc_dtype="int16", order="unpack", tiles=4),
    dot=Dot("lut_dot_avx2", rows=8, depth=2, x_dtype="int16", c_dtype="int16", block=8),
    window=_WINDOW,
    narrow_window=_NARROW,
    product=Product(
        bytes=32, tiles=10, madd="llvm.x86.avx2.pmadd.ub.sw", pair="llvm.x86.avx2.pmadd.wd",
        shuffle="llvm.x86.avx2.pshuf.b",
    ),
    float_lanes=8,
    tree=Tree("llvm.x86.avx2.pshuf.b", rows=32, permute="llvm.x86.avx2.permps", float_rows=8),
    manual="https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html#text=pshufb",
)  # fmt: skip


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    read = table_read_impl(ISA.table_read, ISA.product.shuffle, pairs_by_madd(ISA.product))
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), read)
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), dot_impl(ISA.dot, "llvm.x86.avx2.pmadd.wd"))
    for window, shuffle in ((_WINDOW, "llvm.x86.avx2.pshuf.b"), (_NARROW, "llvm.x86.ssse3.pshuf.b.128")):
        s_tir.TensorIntrin.register(window.intrin, window_desc(window), window_impl(window, shuffle))
