"""AVX-512BW without VBMI (Skylake-X): vpshufb on 512-bit registers."""

from __future__ import annotations

from tvm import s_tir

from tvm_ext.tensor_intrin._shuffle_madd import dot_impl, pairs_by_madd, table_read_impl
from tvm_ext.tensor_intrin._window import FLOAT_WINDOW, WORD_WINDOW, window_impl
from tvm_ext.tensor_intrin.desc import dot_desc, table_read_desc, window_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, Tree

ISA = Isa(
    name="avx512",
    arch="x86",
    requires=("avx512f", "avx512bw"),
    rank=30,
    table_read=TableRead("lut_read_avx512", rows=64, group=2, acc_dtype="int16", order="unpack", tiles=6),
    dot=Dot("lut_dot_avx512", rows=16, depth=2, x_dtype="int16", c_dtype="int16"),
    product=Product(
        bytes=64, tiles=16, madd="llvm.x86.avx512.pmaddubs.w.512", pair="llvm.x86.avx512.pmaddw.d.512",
        shuffle="llvm.x86.avx512.pshuf.b.512",
        permute_words="llvm.x86.avx512.vpermi2var.d.512",
        pack=("llvm.x86.avx512.packusdw.512", "llvm.x86.avx512.packuswb.512"),
    ),
    window=WORD_WINDOW,
    float_window=FLOAT_WINDOW,
    float_lanes=16,
    tree=Tree("llvm.x86.avx512.pshuf.b.512", rows=64, permute="llvm.x86.avx512.permvar.sf.512", float_rows=16),
    manual="https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html#text=pshufb",
)  # fmt: skip


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    read = table_read_impl(ISA.table_read, ISA.product.shuffle, pairs_by_madd(ISA.product))
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), read)
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), dot_impl(ISA.dot, "llvm.x86.avx512.pmaddw.d.512"))
    for window in (WORD_WINDOW, FLOAT_WINDOW):
        s_tir.TensorIntrin.register(window.intrin, window_desc(window), window_impl(window))
