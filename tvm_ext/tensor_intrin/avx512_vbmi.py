"""AVX-512 VBMI + VNNI (Ice Lake, Zen 4 and later): vpermb over four codebooks, vpdpbusd to add them in int32."""

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin._window import FLOAT_WINDOW
from tvm_ext.tensor_intrin.desc import dot_desc, dot_lanes_desc, table_read_desc, window_desc
from tvm_ext.tensor_intrin.spec import Dot, Isa, Product, TableRead, Tree, Window, llvm_intrinsic

_WINDOW = Window("lut_window_vbmi", span=64, depth=4, dtype="uint8", index_dtype="uint8")
ISA = Isa(
    name="avx512_vbmi",
    arch="x86",
    requires=("avx512vbmi", "avx512vnni"),
    rank=40,
    # 15 accumulators of 64 bytes: a tile of 1024 bytes or more would become a workspace allocation
    table_read=TableRead(
        "lut_read_vbmi", rows=16, group=4, acc_dtype="int32", order="row_codebook", tiles=15,
        intrin_mult="lut_read_mult_vbmi", code_offset=16,
    ),
    dot=Dot("lut_dot_vnni", rows=16, depth=4, x_dtype="uint8", c_dtype="int8", mixed_lanes="lut_dot_lanes_vnni"),
    product=Product(
        bytes=64, tiles=16, dot="llvm.x86.avx512.vpdpbusd.512", dot_pair="llvm.x86.avx512.vpdpwssd.512",
        shuffle="llvm.x86.avx512.pshuf.b.512",
        permute=("llvm.x86.avx512.permvar.qi.512", "llvm.x86.avx512.vpermi2var.qi.512"),
        permute_words="llvm.x86.avx512.vpermi2var.d.512",
        pack=("llvm.x86.avx512.packusdw.512", "llvm.x86.avx512.packuswb.512"),
        pack_signed="llvm.x86.avx512.packsswb.512", fma_towards_zero="llvm.x86.avx512.vfmadd.ps.512",
    ),
    window=_WINDOW,
    float_window=FLOAT_WINDOW,
    float_lanes=16,
    tree=Tree("llvm.x86.avx512.pshuf.b.512", rows=64, permute="llvm.x86.avx512.permvar.sf.512", float_rows=16),
    manual="https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html#text=vpermb",
)  # fmt: skip


def register() -> None:
    """Register the tensor intrinsics; raises ValueError if LLVM lacks one."""
    read = ISA.table_read
    s_tir.TensorIntrin.register(read.intrin, table_read_desc(read), _table_read())
    s_tir.TensorIntrin.register(read.intrin_mult, table_read_desc(read, mult=True), _table_read_mult())
    s_tir.TensorIntrin.register(ISA.dot.intrin, dot_desc(ISA.dot), _dot())
    s_tir.TensorIntrin.register(ISA.dot.lanes_intrin, dot_lanes_desc(ISA.dot), _dot_lanes())
    s_tir.TensorIntrin.register(_WINDOW.intrin, window_desc(_WINDOW), _window())


def _table_read() -> PrimFunc:
    permute, dot = llvm_intrinsic("llvm.x86.avx512.permvar.qi.512"), llvm_intrinsic("llvm.x86.avx512.vpdpbusd.512")

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16, 4), "uint8", offset_factor=1),
        table: T.Buffer((4, 16), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16, 0:4], table[0:4, 0:16])
            T.writes(acc[0:16])
            # the codes carry the start of their codebook's table, 16 * (codebook in the group)
            index: T.let = T.reinterpret("int8x64", code.vload([0, 0], "uint8x64"))
            read: T.let = T.call_llvm_pure_intrin("int8x64", permute, table.vload([0, 0], "int8x64"), index)
            acc[T.ramp(0, 1, 16)] = T.call_llvm_pure_intrin(
                "int32x16", dot, acc[T.ramp(0, 1, 16)], T.broadcast(T.int8(1), 64), read
            )

    return impl


def _table_read_mult() -> PrimFunc:
    permute, dot = llvm_intrinsic("llvm.x86.avx512.permvar.qi.512"), llvm_intrinsic("llvm.x86.avx512.vpdpbusd.512")

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16, 4), "uint8", offset_factor=1),
        table: T.Buffer((4, 16), "int8", offset_factor=1),
        mult: T.Buffer((4,), "uint8", offset_factor=1),
        acc: T.Buffer((16,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16, 0:4], mult[0:4], table[0:4, 0:16])
            T.writes(acc[0:16])
            index: T.let = T.reinterpret("int8x64", code.vload([0, 0], "uint8x64"))
            read: T.let = T.call_llvm_pure_intrin("int8x64", permute, table.vload([0, 0], "int8x64"), index)
            factor: T.let = T.broadcast(T.reinterpret("int32", mult.vload([0], "uint8x4")), 16)
            acc[T.ramp(0, 1, 16)] = T.call_llvm_pure_intrin(
                "int32x16", dot, acc[T.ramp(0, 1, 16)], T.reinterpret("int8x64", factor), read
            )

    return impl


def _dot() -> PrimFunc:
    dot = llvm_intrinsic("llvm.x86.avx512.vpdpbusd.512")

    @T.prim_func(s_tir=True)
    def impl(
        x: T.Buffer((16, 4), "uint8", offset_factor=1),
        c: T.Buffer((4,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], x[0:16, 0:4], c[0:4])
            T.writes(acc[0:16])
            centroid: T.let = T.broadcast(T.reinterpret("int32", c.vload([0], "int8x4")), 16)
            acc[T.ramp(0, 1, 16)] = T.call_llvm_pure_intrin(
                "int32x16",
                dot,
                acc[T.ramp(0, 1, 16)],
                T.reinterpret("int8x64", x.vload([0, 0], "uint8x64")),
                T.reinterpret("int8x64", centroid),
            )

    return impl


def _dot_lanes() -> PrimFunc:
    dot = llvm_intrinsic("llvm.x86.avx512.vpdpbusd.512")

    @T.prim_func(s_tir=True)
    def impl(
        c: T.Buffer((16, 4), "int8", offset_factor=1),
        x: T.Buffer((4,), "uint8", offset_factor=1),
        acc: T.Buffer((16,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], c[0:16, 0:4], x[0:4])
            T.writes(acc[0:16])
            elements: T.let = T.broadcast(T.reinterpret("int32", x.vload([0], "uint8x4")), 16)
            acc[T.ramp(0, 1, 16)] = T.call_llvm_pure_intrin(
                "int32x16", dot, acc[T.ramp(0, 1, 16)], T.reinterpret("int8x64", elements), c.vload([0, 0], "int8x64")
            )

    return impl


def _window() -> PrimFunc:
    permute = llvm_intrinsic("llvm.x86.avx512.permvar.qi.512")

    @T.prim_func(s_tir=True)
    def impl(
        pattern: T.Buffer((16, 4), "uint8", offset_factor=1),
        source: T.Buffer((64,), "uint8", offset_factor=1),
        out: T.Buffer((16, 4), "uint8", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(out[0:16, 0:4], pattern[0:16, 0:4], source[0:64])
            T.writes(out[0:16, 0:4])
            taken: T.let = T.call_llvm_pure_intrin(
                "int8x64",
                permute,
                T.reinterpret("int8x64", source.vload([0], "uint8x64")),
                T.reinterpret("int8x64", pattern.vload([0, 0], "uint8x64")),
            )
            out.vstore([0, 0], out.vload([0, 0], "uint8x64") + T.reinterpret("uint8x64", taken))

    return impl
