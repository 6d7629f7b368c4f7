"""Closest-centroid search of AArch64 with sixteen centroids in the lanes of four registers, four rows at a time.

The inputs are the by-element operand of sdot, so rows of a matrix and windows of an image are read as they lie. All
sixteen sums of a row stay in registers, start from a bias that is loaded (a copy would be an instruction), carry
their index in the low four bits, and need no comparison with select: maxima, then pairwise maxima of four rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.tensor_intrin.spec import llvm_intrinsic

ROWS, LANES, DEPTH = 4, 4, 4
_WORD, _BYTES = "int32x4", "int8x16"
_ZIP = [i + half for i in range(8) for half in (0, 16)]


def lane_dot(acc: Expr, centroids: Expr, inputs: Expr, lane: int) -> Expr:
    """acc int32x4 + four products for each of four centroids (int8x16) with inputs' (int8x16) bytes 4 * lane ..."""
    sdot = llvm_intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8")
    four = T.Shuffle([T.reinterpret(_WORD, inputs)], [lane] * LANES)
    return T.call_llvm_pure_intrin(_WORD, sdot, acc, centroids, T.reinterpret(_BYTES, four))


def windows(source: Expr, pattern: Expr) -> Expr:
    """Four bytes for each of four positions, picked from 16 neighbours."""
    tbl = llvm_intrinsic("llvm.aarch64.neon.tbl1.v16i8")
    return T.call_llvm_pure_intrin(_BYTES, tbl, source, pattern)


def interleaved(channels: Sequence[Expr]) -> Expr:
    """The first four bytes of four channels, by position."""
    low = [T.Shuffle([channels[i], channels[i + 2]], _ZIP) for i in range(2)]
    return T.Shuffle(low, _ZIP)


def quantized(values: Sequence[Expr], scale: Expr, signed: bool) -> Expr:
    """clip(round_half_even(value * scale)) of four float32x4 as int8x16; unsigned ones are clipped to 0..255, less 128.

    Conversion rounds and narrowing clips, so neither takes instructions of its own.
    """
    convert = llvm_intrinsic("llvm.aarch64.neon.fcvtns.v4i32.v4f32")
    words = llvm_intrinsic("llvm.aarch64.neon.sqxtn.v4i16")
    narrow = llvm_intrinsic(f"llvm.aarch64.neon.{'sqxtn' if signed else 'sqxtun'}.v8i8")
    parts = [T.call_llvm_pure_intrin(_WORD, convert, value * scale) for value in values]
    parts = [T.call_llvm_pure_intrin("int16x4", words, part) for part in parts]
    halves = [T.Shuffle([parts[i], parts[i + 1]], list(range(8))) for i in (0, 2)]
    halves = [T.call_llvm_pure_intrin("int8x8", narrow, half) for half in halves]
    both = T.Shuffle(halves, list(range(16)))
    return both if signed else T.bitwise_xor(both, T.broadcast(T.int8(-128), 16))


def with_index(score: Expr, group: int) -> Expr:
    """The low four bits of the scores of centroids 4 * group ... replaced by 15 - index, in one instruction (sri)."""
    insert = llvm_intrinsic("llvm.aarch64.neon.vsri.v4i32")
    tag = T.shift_left(T.ramp(T.int32(15 - LANES * group), T.int32(-1), LANES), T.broadcast(T.int32(28), LANES))
    return T.call_llvm_pure_intrin(_WORD, insert, score, tag, T.int32(28))


def best_of(scores: Sequence[Sequence[Expr]]) -> Expr:
    """The largest of the 16 scores (4 x int32x4) of each of four rows, as int32x4."""
    pairwise = llvm_intrinsic("llvm.aarch64.neon.smaxp.v4i32")

    def fold(a, b):
        return T.call_llvm_pure_intrin(_WORD, pairwise, a, b)

    rows = [T.max(T.max(row[0], row[1]), T.max(row[2], row[3])) for row in scores]
    return fold(fold(rows[0], rows[1]), fold(rows[2], rows[3]))


def join(best: Expr, later: Expr) -> Expr:
    """The low byte of `best`, and above it those that `later` holds: one instruction (sli)."""
    insert = llvm_intrinsic("llvm.aarch64.neon.vsli.v4i32")
    return T.call_llvm_pure_intrin(_WORD, insert, best, later, T.int32(8))


def codes_of(joined: Expr, unit: int, start: int) -> Expr:
    """uint8 x (4 * unit): the codes of four rows, `unit` codebooks side by side, from joined scores.

    The low four bits of a score are 15 - index; `start` is added for each codebook before its own.
    """
    low = sum(15 << 8 * i for i in range(unit))
    flip = sum((15 | start * i) << 8 * i for i in range(unit))
    dtype = {1: "int8x4", 2: "int16x4", 4: _WORD}[unit]
    codes = T.bitwise_xor(T.bitwise_and(joined, T.broadcast(T.int32(low), 4)), T.broadcast(T.int32(flip), 4))
    return T.reinterpret(f"uint8x{4 * unit}", codes if dtype == _WORD else T.cast(codes, dtype))


def lane_fma(acc: Expr, centroids: Expr, value: Expr) -> Expr:
    """acc float32x4 + centroids (float32x4) * value, rounded once."""
    fma = llvm_intrinsic("llvm.fma.v4f32")
    return T.call_llvm_pure_intrin("float32x4", fma, centroids, T.broadcast(value, LANES), acc)


def first_best(scores: Sequence[Sequence[Expr]]) -> Expr:
    """15 - index of the first of the largest of the 16 scores (4 x float32x4) of each of four rows, as int32x4.

    Lane l of vector j is the score of centroid 4 * l + j, so that the first of two equal ones stays whenever the later
    lanes have to be larger.
    """
    rows = []
    for row in scores:
        found = [(value, T.ramp(T.int32(15 - j), T.int32(-LANES), LANES)) for j, value in enumerate(row)]
        rows.append(_larger(_larger(found[0], found[1]), _larger(found[2], found[3])))
    halves = [_larger(*_neighbours(rows[i], rows[i + 1])) for i in (0, 2)]
    return _larger(*_neighbours(*halves))[1]


def _larger(first: tuple[Expr, Expr], later: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    """(score, index) lane by lane; `first` where they are equal or not numbers."""
    value = T.call_llvm_pure_intrin("float32x4", llvm_intrinsic("llvm.maxnum.v4f32"), first[0], later[0])
    return T.Bind(value), T.Bind(T.Select(later[0] > first[0], later[1], first[1]))


def _neighbours(a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> list[tuple[Expr, Expr]]:
    """Even and odd lanes of scores and indices of a, then b."""
    lanes = [[start + 2 * i for i in range(LANES)] for start in (0, 1)]
    return [(T.Bind(T.Shuffle([a[0], b[0]], each)), T.Bind(T.Shuffle([a[1], b[1]], each))) for each in lanes]
