"""Closest-centroid search of AArch64 with sixteen centroids in the lanes of four registers, four rows at a time.

The inputs are the by-element operand of sdot, so rows of a matrix and windows of an image are read as they lie. All
sums of a row (sixteen, or as many as there are centroids) stay in registers, start from a bias that is loaded (a copy
would be an instruction), carry their index in the low four bits, and need no comparison with select: minima, then
pairwise minima of four rows. They are minima of -1 - score, so that the first of equal ones wins with its plain index.
Sums of float32 have no bits to spare: their winners are found by comparison and select.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def quantized(values: Sequence[Expr], scale: Expr, signed: bool, step: int = 1) -> Expr:
    """clip(round_half_even(value * scale)) of four float32x4 as int8x16; unsigned ones are clipped to 0..255, less 128.

    With a `step` above 1, a power of two, these are then rounded to its multiples, half up and within the same bounds.
    """
    both = _rounded(values, scale, signed) if step == 1 else _rounded_to(step, values, scale, signed)
    return both if signed else T.bitwise_xor(both, T.broadcast(T.int8(-128), 16))


def _rounded(values: Sequence[Expr], scale: Expr, signed: bool) -> Expr:
    """Conversion rounds and narrowing clips, so neither takes instructions of its own."""
    convert = llvm_intrinsic("llvm.aarch64.neon.fcvtns.v4i32.v4f32")
    words = llvm_intrinsic("llvm.aarch64.neon.sqxtn.v4i16")
    narrow = llvm_intrinsic(f"llvm.aarch64.neon.{'sqxtn' if signed else 'sqxtun'}.v8i8")
    parts = [T.call_llvm_pure_intrin(_WORD, convert, value * scale) for value in values]
    parts = [T.call_llvm_pure_intrin("int16x4", words, part) for part in parts]
    halves = [T.Shuffle([parts[i], parts[i + 1]], list(range(8))) for i in (0, 2)]
    halves = [T.call_llvm_pure_intrin("int8x8", narrow, half) for half in halves]
    return T.Shuffle(halves, list(range(16)))


def _rounded_to(step: int, values: Sequence[Expr], scale: Expr, signed: bool) -> Expr:
    """A multiple begins at an odd number and a half, which half to even rounds up: so with half a step and half a unit
    added it is enough to round down. Conversion to 8 bits before the point and 24 behind it clips, and picking upper
    bytes takes fewer instructions than narrowing.
    """
    kind = "s" if signed else "u"
    convert = llvm_intrinsic(f"llvm.aarch64.neon.vcvtfp2fx{kind}.v4i32.v4f32")
    add = llvm_intrinsic(f"llvm.{kind}add.sat.v8i16")
    half_step = T.broadcast(T.int16(128 * (step + 1)), 8)
    words = [T.call_llvm_pure_intrin(_WORD, convert, value * scale, T.int32(24)) for value in values]
    words = [T.reinterpret("int16x8", word) for word in words]
    halves = [T.Shuffle([words[i], words[i + 1]], list(range(1, 16, 2))) for i in (0, 2)]
    halves = [T.call_llvm_pure_intrin("int16x8", add, half, half_step) for half in halves]
    both = T.Shuffle([T.reinterpret(_BYTES, half) for half in halves], list(range(1, 32, 2)))
    return T.bitwise_and(both, T.broadcast(T.int8(-step), 16))


def with_index(cost: Expr, group: int) -> Expr:
    """The low four bits of the costs of centroids 4 * group ... replaced by their index, in one instruction (sri)."""
    insert = llvm_intrinsic("llvm.aarch64.neon.vsri.v4i32")
    tag = T.shift_left(T.ramp(T.int32(LANES * group), T.int32(1), LANES), T.broadcast(T.int32(28), LANES))
    return T.call_llvm_pure_intrin(_WORD, insert, cost, tag, T.int32(28))


def best_of(costs: Sequence[Sequence[Expr]]) -> Expr:
    """The least of the costs (1 to 4 x int32x4) of each of four rows, as int32x4."""
    pairwise = llvm_intrinsic("llvm.aarch64.neon.sminp.v4i32")

    def fold(a, b):
        return T.call_llvm_pure_intrin(_WORD, pairwise, a, b)

    rows = [_reduced(row, T.min) for row in costs]
    return fold(fold(rows[0], rows[1]), fold(rows[2], rows[3]))


def _reduced(values: Sequence, combine: Callable):
    """Neighbours combined, level by level."""
    while len(values) > 1:
        pairs = [combine(*values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
        values = pairs + list(values[len(values) & ~1 :])
    return values[0]


def join(best: Expr, later: Expr) -> Expr:
    """The low byte of `best`, and above it those that `later` holds: one instruction (sli)."""
    insert = llvm_intrinsic("llvm.aarch64.neon.vsli.v4i32")
    return T.call_llvm_pure_intrin(_WORD, insert, best, later, T.int32(8))


def keep_apart() -> None:
    """LLVM schedules nothing across this: else it mixes searches and spills their sums.

    The instruction (bti c in the space of hints) is a nop to every core, but LLVM takes it for a target of branches.
    """
    T.evaluate(T.call_llvm_intrin("void", llvm_intrinsic("llvm.aarch64.hint"), T.int32(34)))


def side_by_side(best: Sequence[Expr]) -> Expr:
    """The low bytes of four vectors (int32x4), one vector after the other, as uint8x16."""
    words = [T.reinterpret("int16x8", each) for each in best]
    halves = [T.Shuffle([words[i], words[i + 1]], list(range(0, 16, 2))) for i in (0, 2)]
    return T.Shuffle([T.reinterpret("uint8x16", half) for half in halves], list(range(0, 32, 2)))


def codes_of(joined: Expr, unit: int, start: int) -> Expr:
    """uint8 x (4 * unit): the codes of four rows, `unit` codebooks side by side, from what `join` has joined.

    Codes are the low four bits; `start` is added for each codebook before its own.
    """
    dtype = {1: "int8x4", 2: "int16x4", 4: _WORD}[unit]
    value = T.reinterpret(f"uint8x{4 * unit}", joined if dtype == _WORD else T.cast(joined, dtype))
    return low_bits(value, [start * i for i in range(unit)])


def low_bits(values: Expr, starts: Sequence[int]) -> Expr:
    """The low four bits of bytes, and those of `starts` above them, over and over."""
    dtype, words = str(values.ty.dtype), len(starts)
    lanes = int(dtype.rpartition("x")[2])

    def everywhere(bytes_: Sequence[int]) -> Expr:
        word = sum(byte << 8 * i for i, byte in enumerate(bytes_))
        return T.reinterpret(dtype, T.broadcast(T.Cast(f"uint{8 * words}", word), lanes // words))

    codes = T.bitwise_and(values, everywhere([15] * words))
    return T.bitwise_or(codes, everywhere(starts)) if any(starts) else codes


def lane_fma(acc: Expr, centroids: Expr, value: Expr) -> Expr:
    """acc float32x4 + centroids (float32x4) * value, rounded once."""
    fma = llvm_intrinsic("llvm.fma.v4f32")
    return T.call_llvm_pure_intrin("float32x4", fma, centroids, T.broadcast(value, LANES), acc)


def first_best(scores: Sequence[Sequence[Expr]]) -> Expr:
    """The index of the first of the largest of the scores (1 to 4 x float32x4) of each of four rows, as int32x4.

    Lane l of vector j of J is the score of centroid J * l + j, so that the first of two equal ones stays whenever the
    later lanes have to be larger.
    """
    rows = []
    for row in scores:
        indices = [T.ramp(T.int32(j), T.int32(len(row)), LANES) for j in range(len(row))]
        rows.append(_reduced(list(zip(row, indices, strict=True)), _larger))
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
