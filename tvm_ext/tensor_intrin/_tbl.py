"""Table reads of AArch64: tbl over one or two registers, then the cheapest addition that stays exact.

What 16 lookups cost in vector instructions: 3 for one codebook (tbl, saddw, saddw2), 2.5 and 2.25 where 2 or 4
codebooks are added in int8 first, 2 for a pair (tbl with two registers, sadalp), which no core does faster with wider
tables: three and four registers cost as many instructions inside. In-order cores pay a cycle for each register of a
table and two for sadalp, so they take the first forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.tensor_intrin.spec import llvm_intrinsic

_BYTES, _WORDS = "int8x16", "int16x8"


def _read(table, code):
    return T.call_llvm_pure_intrin(_BYTES, llvm_intrinsic("llvm.aarch64.neon.tbl1.v16i8"), table, _index(code))


def _read_pair(first, second, code):
    return T.call_llvm_pure_intrin(_BYTES, llvm_intrinsic("llvm.aarch64.neon.tbl2.v16i8"), first, second, _index(code))


def _index(code):
    return T.reinterpret(_BYTES, code)


def _add_pairs(acc, read):
    """LLVM selects sadalp."""
    return acc + T.call_llvm_pure_intrin(_WORDS, llvm_intrinsic("llvm.aarch64.neon.saddlp.v8i16.v16i8"), read)


def _codebooks_step(acc, codes: Sequence, tables: Sequence):
    """16 rows (acc int16x16): the codebooks are added in int8 first."""
    total = _read(tables[0], codes[0])
    for table, code in zip(tables[1:], codes[1:], strict=True):
        total = total + _read(table, code)
    return acc + T.cast(total, "int16x16")


def _pair_step(acc, codes: Sequence, tables: Sequence):
    """8 rows (acc int16x8), two codebooks."""
    return _add_pairs(acc, _read_pair(*tables, codes[0]))


def _pairs_step(acc, codes: Sequence, tables: Sequence):
    """8 rows (acc int16x8), codebooks 0 and 2, and 1 and 3."""
    return _add_pairs(acc, _read_pair(tables[0], tables[2], codes[0]) + _read_pair(tables[1], tables[3], codes[1]))


STEPS: dict[str, Callable] = {
    "row": _codebooks_step, "codebook_row": _codebooks_step, "row_codebook": _pair_step, "pairs": _pairs_step
}  # fmt: skip
"""By `TableRead.order`: sums of a step after one group, from sums, `step_vectors` vectors of codes and G of a table."""


def one_codebook() -> PrimFunc:
    """One tbl and two widening adds a codebook, 16 rows."""

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((16,), "uint8", offset_factor=1),
        table: T.Buffer((16,), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:16], table[0:16])
            T.writes(acc[0:16])
            acc[T.ramp(0, 1, 16)] = _codebooks_step(
                acc[T.ramp(0, 1, 16)], [code.vload([0], "uint8x16")], [table.vload([0], _BYTES)]
            )

    return impl


def added_codebooks(group: int) -> PrimFunc:
    """A tbl for each of `group` codebooks, summed in int8, then two widening adds; 16 rows."""

    def total(acc, code, table):
        codes = [code.vload([c, 0], "uint8x16") for c in range(group)]
        return _codebooks_step(acc[T.ramp(0, 1, 16)], codes, [table.vload([c, 0], _BYTES) for c in range(group)])

    @T.prim_func(s_tir=True)
    def impl(
        code: T.Buffer((group, 16), "uint8", offset_factor=1),
        table: T.Buffer((group, 16), "int8", offset_factor=1),
        acc: T.Buffer((16,), "int16", offset_factor=1),
    ):
        with T.sblock("root"):
            T.reads(acc[0:16], code[0:group, 0:16], table[0:group, 0:16])
            T.writes(acc[0:16])
            acc[T.ramp(0, 1, 16)] = total(acc, code, table)

    return impl


def pair() -> PrimFunc:
    """A tbl over the tables of two codebooks for 8 rows, and one addition of neighbours to int16; twice."""

    def update(code, table, acc) -> None:
        tables = [table.vload([c, 0], _BYTES) for c in range(2)]
        for half in range(2):
            lanes = T.ramp(8 * half, 1, 8)
            T.buffer_store(acc, _pair_step(acc[lanes], [code.vload([8 * half, 0], "uint8x16")], tables), [lanes])

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

    def update(code, table, acc) -> None:
        tables = [table.vload([c, 0], _BYTES) for c in range(4)]
        for half in range(2):
            lanes = T.ramp(8 * half, 1, 8)
            codes = [code.vload([p, 8 * half, 0], "uint8x16") for p in range(2)]
            T.buffer_store(acc, _pairs_step(acc[lanes], codes, tables), [lanes])

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
