"""The x86 table read without a byte permute across lanes: shuffle, unpack two codebooks, multiply-add bytes.

`pshufb` looks 16 rows up in each 128-bit lane (the table is repeated in every lane). Results of two codebooks are
interleaved by byte unpacking and added to int16 by `pmaddubsw` with ones. SSSE3, AVX2 and AVX-512BW differ in width.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.spec import Dot, Product, TableRead, Window, llvm_intrinsic


def _unpack_order(lanes: int, high: bool) -> list[int]:
    """Bytes of (a, b) in the order that punpck{l,h}bw takes them, lane by lane."""
    start = 8 if high else 0
    pairs = [16 * lane + start + i for lane in range(lanes) for i in range(8)]
    return [byte for p in pairs for byte in (p, p + 16 * lanes)]


def pairs_by_madd(product: Product) -> Callable[[Expr], Expr]:
    """Sums of neighbours of a register of int8 as int16, by pmaddubsw with ones."""
    madd, size = llvm_intrinsic(product.madd), product.bytes
    return lambda read: T.call_llvm_pure_intrin(f"int16x{size // 2}", madd, T.broadcast(T.int8(1), size), read)


def table_read_impl(read: TableRead, shuffle: str, add_pairs: Callable[[Expr], Expr]) -> PrimFunc:
    """`shuffle`: LLVM name of the pshufb of the register width `read.rows` bytes; `add_pairs`: see `pairs_by_madd`."""
    shuffle = llvm_intrinsic(shuffle)
    rows, lanes, half = read.rows, read.lanes, read.rows // 2
    bytes_t, acc_t = f"int8x{rows}", f"int16x{half}"
    low, high = _unpack_order(lanes, False), _unpack_order(lanes, True)
    copies, repeat = rows // 16, list(range(rows))  # a shuffle may not be longer than its inputs together

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((2, lanes, 2, 8), "uint8", offset_factor=1),
        table: T.Buffer((2, 16), "int8", offset_factor=1),
        acc: T.Buffer((rows,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], code[0:2, 0:lanes, 0:2, 0:8], table[0:2, 0:16])
            T.writes(acc[0:rows])
            t0: T.let = T.call_llvm_pure_intrin(
                bytes_t,
                shuffle,
                T.Shuffle([table.vload([0, 0], "int8x16")] * copies, repeat),
                T.reinterpret(bytes_t, code.vload([0, 0, 0, 0], f"uint8x{rows}")),
            )
            t1: T.let = T.call_llvm_pure_intrin(
                bytes_t,
                shuffle,
                T.Shuffle([table.vload([1, 0], "int8x16")] * copies, repeat),
                T.reinterpret(bytes_t, code.vload([1, 0, 0, 0], f"uint8x{rows}")),
            )
            acc.vstore([0], acc.vload([0], acc_t) + add_pairs(T.Shuffle([t0, t1], low)))
            acc.vstore([half], acc.vload([half], acc_t) + add_pairs(T.Shuffle([t0, t1], high)))

    return impl


def dot_impl(dot: Dot, madd: str) -> PrimFunc:
    """`madd`: LLVM name of the pmaddwd of the register width `dot.rows` x 32 bits."""
    madd = llvm_intrinsic(madd)
    rows = dot.rows
    wide, acc_t = f"int16x{2 * rows}", f"int32x{rows}"

    @T.prim_func(s_tir=True)
    def impl(
        x: T.Buffer((rows, 2), "int16", offset_factor=1),
        c: T.Buffer((2,), "int16", offset_factor=1),
        acc: T.Buffer((rows,), "int32", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:rows], x[0:rows, 0:2], c[0:2])
            T.writes(acc[0:rows])
            acc[T.ramp(0, 1, rows)] = acc[T.ramp(0, 1, rows)] + T.call_llvm_pure_intrin(
                acc_t,
                madd,
                x.vload([0, 0], wide),
                T.reinterpret(wide, T.broadcast(T.reinterpret("int32", c.vload([0], "int16x2")), rows)),
            )

    return impl


def byte_window(name: str, rows: int) -> Window:
    """Windows for `dot_impl`: pairs of bytes from 16, widened by the shuffle, whose high index bit gives zeros."""
    return Window(
        name, span=16, depth=2, dtype="uint8", index_dtype="int16", rows=rows, out_dtype="int16",
        index_offset=-(1 << 15),
    )  # fmt: skip


def window_impl(window: Window, shuffle: str) -> PrimFunc:
    """`shuffle`: LLVM name of the pshufb of the register width `window.rows` x 32 bits."""
    shuffle = llvm_intrinsic(shuffle)
    rows = window.rows
    size = 4 * rows
    bytes_t, words_t = f"int8x{size}", f"int16x{2 * rows}"
    copies, repeat = size // 16, list(range(size))

    @T.prim_func(s_tir=True)
    def impl(
        pattern: T.Buffer((rows, 2), "int16", offset_factor=1),
        source: T.Buffer((16,), "uint8", offset_factor=1),
        out: T.Buffer((rows, 2), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(out[0:rows, 0:2], pattern[0:rows, 0:2], source[0:16])
            T.writes(out[0:rows, 0:2])
            taken: T.let = T.call_llvm_pure_intrin(
                bytes_t,
                shuffle,
                T.Shuffle([T.reinterpret("int8x16", source.vload([0], "uint8x16"))] * copies, repeat),
                T.reinterpret(bytes_t, pattern.vload([0, 0], words_t)),
            )
            out.vstore([0, 0], out.vload([0, 0], words_t) + T.reinterpret(words_t, taken))

    return impl
