"""WebAssembly with 128-bit vectors: i8x16.swizzle, two codebooks interleaved and added in pairs.

What x86 does by pshufb, punpck and pmaddubsw: an engine on x86 makes these of swizzle, shuffle and extadd_pairwise, one
on Arm tbl, zip and saddlp. There is no instruction that multiplies bytes: the search adds pairs of 16-bit products.
"""

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T

from tvm_ext.tensor_intrin._shuffle_madd import byte_window, dot_impl, table_read_impl, window_impl
from tvm_ext.tensor_intrin.desc import dot_desc, table_read_desc, window_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, Tree, llvm_intrinsic

_SWIZZLE, _DOT = "llvm.wasm.swizzle", "llvm.wasm.dot"
_WINDOW = byte_window("lut_window_wasm", rows=4)
ISA = Isa(
    name="wasm_simd128",
    arch="wasm32",
    requires=("simd128",),
    rank=10,
    table_read=TableRead("lut_read_wasm", rows=16, group=2, acc_dtype="int16", order="unpack", tiles=3),
    dot=Dot("lut_dot_wasm", rows=4, depth=2, x_dtype="int16", c_dtype="int16"),
    window=_WINDOW,
    product=Product(bytes=16, tiles=8, pair=_DOT, shuffle=_SWIZZLE, fused=False, level_dtype="int8"),
    tree=Tree(_SWIZZLE, wraps=False),
    manual="https://github.com/WebAssembly/spec/blob/main/proposals/simd/SIMD.md",
)


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    read = table_read_impl(ISA.table_read, _SWIZZLE, _add_pairs)
    s_tir.TensorIntrin.register(ISA.table_read.intrin, table_read_desc(ISA.table_read), read)
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), dot_impl(ISA.dot, _DOT))
    s_tir.TensorIntrin.register(_WINDOW.intrin, window_desc(_WINDOW), window_impl(_WINDOW, _SWIZZLE))


def _add_pairs(read):
    """int16x8 sums of neighbours of int8x16."""
    return T.call_llvm_pure_intrin("int16x8", llvm_intrinsic("llvm.wasm.extadd.pairwise.signed"), read)
