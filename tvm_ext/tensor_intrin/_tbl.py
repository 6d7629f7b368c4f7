"""Table reads of AArch64: tbl over one or two registers, then the cheapest addition that stays exact.

What 16 lookups cost in vector instructions: 3 for one codebook (tbl, saddw, saddw2), 2.5 and 2.25 where 2 or 4
codebooks are added in int8 first, 2 for a pair (tbl with two registers, sadalp), which no core does faster with wider
tables: three and four registers cost as many instructions inside. In-order cores pay a cycle for each register of a
table and two for sadalp, so they take the first forms.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.spec import llvm_intrinsic

_BYTES, _WORDS = "int8x16", "int16x8"


def one_codebook() -> PrimFunc:
    """One tbl and two widening adds a codebook, 16 rows."""
    tbl = llvm_intrinsic("llvm.aarch64.neon.tbl1.v16i8")

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16,), "uint8", offset_factor=1),
        table: T.Buffer((16,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16], table[0:16])
            T.writes(acc[0:16])
            read: T.let = T.call_llvm_pure_intrin(
                "int8x16", tbl, table.vload([0], "int8x16"), T.reinterpret("int8x16", code.vload([0], "uint8x16"))
            )
            acc[T.ramp(0, 1, 16)] = acc[T.ramp(0, 1, 16)] + T.cast(read, "int16x16")

    return impl


def added_codebooks(group: int) -> PrimFunc:
    """A tbl for each of `group` codebooks, summed in int8, then two widening adds; 16 rows."""
    tbl = llvm_intrinsic("llvm.aarch64.neon.tbl1.v16i8")

    def read(code, table, c: int):
        index = T.reinterpret(_BYTES, code.vload([c, 0], "uint8x16"))
        return T.call_llvm_pure_intrin(_BYTES, tbl, table.vload([c, 0], _BYTES), index)

    def total(code, table):
        result = read(code, table, 0)
        for c in range(1, group):
            result = result + read(code, table, c)
        return result

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((group, 16), "uint8", offset_factor=1),
        table: T.Buffer((group, 16), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:group, 0:16], table[0:group, 0:16])
            T.writes(acc[0:16])
            acc[T.ramp(0, 1, 16)] = acc[T.ramp(0, 1, 16)] + T.cast(total(code, table), "int16x16")

    return impl


def _read_pair(code, first, second):
    tbl = llvm_intrinsic("llvm.aarch64.neon.tbl2.v16i8")
    return T.call_llvm_pure_intrin(_BYTES, tbl, first, second, T.reinterpret(_BYTES, code))


def _add_pairs(acc, read):
    """LLVM selects sadalp."""
    return acc + T.call_llvm_pure_intrin(_WORDS, llvm_intrinsic("llvm.aarch64.neon.saddlp.v8i16.v16i8"), read)


def pair() -> PrimFunc:
    """A tbl over the tables of two codebooks for 8 rows, and one addition of neighbours to int16; twice."""

    def update(code, table, acc) -> None:
        for half in range(2):
            lanes = T.ramp(8 * half, 1, 8)
            index = code.vload([8 * half, 0], "uint8x16")
            read = _read_pair(index, table.vload([0, 0], _BYTES), table.vload([1, 0], _BYTES))
            T.buffer_store(acc, _add_pairs(acc[lanes], read), [lanes])

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16, 2), "uint8", offset_factor=1),
        table: T.Buffer((2, 16), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16, 0:2], table[0:2, 0:16])
            T.writes(acc[0:16])
            update(code, table, acc)

    return impl


def added_pairs() -> PrimFunc:
    """Two pairs read for 8 rows, added in int8, then one addition of neighbours to int16; twice."""

    def read(code, table, half: int, p: int):
        index = code.vload([p, 8 * half, 0], "uint8x16")
        return _read_pair(index, table.vload([p, 0], _BYTES), table.vload([2 + p, 0], _BYTES))

    def update(code, table, acc) -> None:
        for half in range(2):
            lanes = T.ramp(8 * half, 1, 8)
            both = read(code, table, half, 0) + read(code, table, half, 1)
            T.buffer_store(acc, _add_pairs(acc[lanes], both), [lanes])

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((2, 16, 2), "uint8", offset_factor=1),
        table: T.Buffer((4, 16), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:2, 0:16, 0:2], table[0:4, 0:16])
            T.writes(acc[0:16])
            update(code, table, acc)

    return impl
