"""Upper halves of float32 sums as indices into a table of bytes, and whether some lower half is close to zero."""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.spec import Product, llvm_intrinsic

_LANES = 16
_TOWARDS_ZERO = 11
"""Rounding control of AVX-512: towards zero, and no exceptions."""

_OR_AND = 0xF8
"""Truth table of a | (b & c)."""


def sums_towards_zero(product: Product, x: Expr, slope: float, offset: float) -> Expr:
    """uint32 x 16: the bits of ``x * slope + offset``, rounded once; x float32 x 16."""
    factor, added = (T.broadcast(T.float32(v), _LANES) for v in (slope, offset))
    name = llvm_intrinsic(product.fma_towards_zero)
    total = T.call_llvm_pure_intrin("float32x16", name, x, factor, added, T.int32(_TOWARDS_ZERO))
    return T.reinterpret("uint32x16", total)


def upper_bytes(product: Product, sums: list[Expr], low: int) -> Expr:
    """uint8 x 64 in the order of `packed_place`: ``clip(upper half - low, 0, 127)`` of four uint32 x 16."""
    words = []
    for even, odd in (sums[:2], sums[2:]):
        # by name: LLVM would make one permutation of both, which takes longer
        lower = T.reinterpret("int32x16", T.shift_right(even, T.broadcast(T.uint32(16), _LANES)))
        mask, table = T.broadcast(T.int32(-65536), _LANES), T.int32(_OR_AND)
        ternary = llvm_intrinsic("llvm.x86.avx512.pternlog.d.512")
        both = T.call_llvm_pure_intrin("int32x16", ternary, lower, T.reinterpret("int32x16", odd), mask, table)
        halves = T.reinterpret("uint16x32", both)
        subtract = llvm_intrinsic("llvm.usub.sat")
        less = T.call_llvm_pure_intrin("uint16x32", subtract, halves, T.broadcast(T.uint16(low), 2 * _LANES))
        words.append(T.reinterpret("int16x32", less))
    return T.reinterpret("uint8x64", T.call_llvm_pure_intrin("int8x64", llvm_intrinsic(product.pack_signed), *words))


def packed_place(vector: int, element: int) -> int:
    """Where `upper_bytes` puts an element of one of its vectors."""
    return 16 * (element // 4) + 8 * (vector // 2) + 2 * (element % 4) + vector % 2


def least_halves(least: Expr, sums: list[Expr]) -> Expr:
    """uint16 x 32: the least of `least` and of both halves of every sum."""
    for total in sums:
        least = T.min(least, T.reinterpret("uint16x32", total))
    return least


def any_lower_half(least: Expr, below: int) -> Expr:
    """bool: whether a lower half in uint16 x 32 is less than `below`."""
    lower = T.bitwise_and(T.reinterpret("uint32x16", least), T.broadcast(T.uint32(0xFFFF), _LANES))
    less = lower < T.broadcast(T.uint32(below), _LANES)
    return T.call_llvm_pure_intrin("bool", llvm_intrinsic("llvm.vector.reduce.or"), less)
