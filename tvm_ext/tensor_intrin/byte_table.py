"""Tables of bytes and of dwords read at vectors of indices, and dwords narrowed to bytes, in an ISA's instructions."""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.shuffle import shuffle
from tvm_ext.tensor_intrin.spec import Product, llvm_intrinsic

WIDTH = 64
"""Bytes that `read_bytes` takes and gives, whatever the width of a register."""


def table_size(entries: int) -> int:
    """Elements of the buffer that `read_bytes` wants for a table of that many entries."""
    return next(size for size in (16, 64, 128, 192, 256) if entries <= size)


def read_bytes(product: Product, table, entries: int, index: Expr) -> Expr:
    """uint8 x 64: ``table[index]``, index uint8 x 64 below `entries`; table is an int8 buffer of `table_size`."""
    if entries <= 16:
        return _shuffled(product, table, index)
    code = T.Bind(T.reinterpret("int8x64", index))
    parts = [T.Bind(table[T.ramp(at, 1, WIDTH)]) for at in range(0, table_size(entries), WIDTH)]
    if len(parts) == 1:
        found = T.call_llvm_pure_intrin("int8x64", llvm_intrinsic(product.permute[0]), parts[0], code)
    else:
        double = llvm_intrinsic(product.permute[1])
        found = T.call_llvm_pure_intrin("int8x64", double, parts[0], code, parts[1])
        if len(parts) > 2:  # the highest bit chooses between two tables
            upper = T.call_llvm_pure_intrin("int8x64", llvm_intrinsic(product.permute[0]), parts[2], code)
            if len(parts) == 4:
                upper = T.call_llvm_pure_intrin("int8x64", double, parts[2], code, parts[3])
            found = T.Select(code < T.broadcast(T.int8(0), WIDTH), upper, found)
    return T.reinterpret("uint8x64", found)


def _shuffled(product: Product, table, index: Expr) -> Expr:
    size = product.bytes
    entries = table[T.ramp(0, 1, 16)]
    if size > 16:
        entries = T.Shuffle([entries] * (size // 16), list(range(size)))
    entries = T.Bind(entries)
    parts = []
    for at in range(0, WIDTH, size):
        piece = index if size == WIDTH else T.Shuffle([index], list(range(at, at + size)))
        parts.append(shuffle(product.shuffle, entries, T.reinterpret(f"int8x{size}", piece), size))
    return T.reinterpret("uint8x64", _joined(parts))


def _joined(parts: list[Expr]) -> Expr:
    if len(parts) == 1:
        return parts[0]
    return T.Shuffle(parts, list(range(WIDTH)))


def read_dwords(product: Product, table, index: Expr, dtype: str) -> Expr:
    """`dtype` x 16 ("float32" or "int32"): ``table[index % 32]`` of a buffer of 32, index int32 x 16."""
    low, high = (T.Bind(T.reinterpret("int32x16", table[T.ramp(at, 1, 16)])) for at in (0, 16))
    found = T.call_llvm_pure_intrin("int32x16", llvm_intrinsic(product.permute_words), low, index, high)
    return T.reinterpret("float32x16", found) if dtype == "float32" else found


def narrow(product: Product, dwords: list[Expr]) -> Expr:
    """uint8 x 64 of four int32 x 16, each value in 0..255, in order."""
    if not product.pack:
        return _joined([T.Cast("uint8x16", d) for d in dwords])
    words, byte = (llvm_intrinsic(name) for name in product.pack)
    halves = [T.call_llvm_pure_intrin("int16x32", words, *dwords[at : at + 2]) for at in (0, 2)]
    packed = T.reinterpret("int32x16", T.call_llvm_pure_intrin("int8x64", byte, *halves))
    # within every 128-bit lane there are four of each source
    return T.reinterpret("uint8x64", T.Shuffle([packed], [4 * lane + d for d in range(4) for lane in range(4)]))


def interleave(dwords: list[Expr]) -> Expr:
    """uint8 x 64: byte i of dword n is element n of the i-th of up to four int32 x 16 (values in 0..255), else zero."""
    result = dwords[0]
    for i, vector in enumerate(dwords[1:], 1):
        result = T.bitwise_or(result, T.shift_left(vector, T.broadcast(T.int32(8 * i), 16)))
    return T.reinterpret("uint8x64", result)


def round_to_int(x: Expr, lanes: int) -> Expr:
    """int32 of float32 x `lanes`, halves to even; |x| < 2^31."""
    dtype = f"int32x{lanes}" if lanes > 1 else "int32"
    return T.call_llvm_pure_intrin(dtype, llvm_intrinsic("llvm.lrint"), x)
