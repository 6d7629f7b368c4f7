"""Collecting the inputs of 16 positions of a conv by a permutation of two AVX-512 registers (vpermt2w, vpermt2ps)."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.spec import Window, llvm_intrinsic

FLOAT_WINDOW = Window("lut_window_avx512_f32", span=32, depth=1, dtype="float32", index_dtype="int32")
WORD_WINDOW = Window("lut_window_avx512_i16", span=64, depth=2, dtype="int16", index_dtype="int16")


def window_impl(window: Window) -> PrimFunc:
    """`FLOAT_WINDOW` needs AVX-512F, `WORD_WINDOW` AVX-512BW."""
    suffix = {"float32": "ps", "int16": "hi"}[window.dtype]
    permute = llvm_intrinsic(f"llvm.x86.avx512.vpermi2var.{suffix}.512")
    half, depth, dtype, index = window.span // 2, window.depth, window.dtype, window.index_dtype
    vector = f"{dtype}x{half}"

    @T.prim_func(s_tir=True)
    def impl(
        pattern: T.Buffer((16, depth), index, offset_factor=1),
        source: T.Buffer((2 * half,), dtype, offset_factor=1),
        out: T.Buffer((16, depth), dtype, offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(out[0:16, 0:depth], pattern[0:16, 0:depth], source[0 : 2 * half])
            T.writes(out[0:16, 0:depth])
            taken: T.let = T.call_llvm_pure_intrin(
                vector,
                permute,
                source.vload([0], vector),
                pattern.vload([0, 0], f"{index}x{half}"),
                source.vload([half], vector),
            )
            out.vstore([0, 0], out.vload([0, 0], vector) + taken)

    return impl
