"""A table of 16 bytes read at a vector of indices, by the byte shuffle that an ISA's Tree or Product names."""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.spec import llvm_intrinsic

_HALVES = ("llvm.arm.neon.vtbl2",)
"""Shuffles that take the table as two vectors of 8 bytes, and 8 indices."""


def shuffle(name: str, table: Expr, index: Expr, size: int) -> Expr:
    """int8 x `size`: ``table[index]`` in every 128-bit lane; table and index are int8 x `size`."""
    if name not in _HALVES:
        return T.call_llvm_pure_intrin(f"int8x{size}", llvm_intrinsic(name), table, index)
    table = [T.Shuffle([table], list(range(at, at + 8))) for at in (0, 8)]
    parts = [T.Shuffle([index], list(range(at, at + 8))) for at in range(0, size, 8)]
    found = [T.call_llvm_pure_intrin("int8x8", llvm_intrinsic(name), *table, part) for part in parts]
    return T.Shuffle(found, list(range(size)))
