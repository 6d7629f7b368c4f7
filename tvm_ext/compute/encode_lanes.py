"""Closest-centroid search with centroids in vector lanes, for ISAs that multiply by element.

Integers only, K <= 16. Four rows and one codebook at a time: 64 sums in 16 registers, or 32 in 8 where K is 8. Rows
are the outer loop and codebooks the inner one; the other way round LLVM would lift a codebook's constants out of the
loop and spill them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.quantize_rows import PART
from tvm_ext.compute.search import Search
from tvm_ext.compute.windows import Windows
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.tensor_intrin._lane_search import (
    DEPTH,
    LANES,
    ROWS,
    best_of,
    codes_of,
    interleaved,
    join,
    keep_apart,
    lane_dot,
    low_bits,
    side_by_side,
    windows,
    with_index,
)
from tvm_ext.threads import worth_threads

_NS_PER_STEP = 1.0
"""Of one row and codebook; tells work that threads share from work that they do not."""
_UNROLLED_STEPS = 64
"""Of a group of codebooks: more of them are a loop over codebooks."""


@dataclass(frozen=True)
class LaneRows:
    """Inputs in rows as `quantize_rows_kernel` gives them; `width` is a multiple of 4."""

    rows: int
    codebooks: int
    width: int


def search_order(read: TableRead, padded: int) -> np.ndarray:
    """The codebook that is searched in each turn: of a unit, the last one first."""
    return np.array([codebook_of(read, turn) for turn in range(padded)])


def codebook_of(read: TableRead, turn):
    """The codebook of a turn, see `search_order`; works on ints and expressions."""
    units, j = read.group // read.unit, turn % read.group
    return turn // read.group * read.group + j // read.unit + units * (read.unit - 1 - j % read.unit)


def encode_lanes(
    inputs: LaneRows | Windows, *, plane: int, periods: int, batch: int, tiles: int, groups: int, steps: int,
    vectors: int, codebooks: int, read: TableRead, search: Search,
) -> PrimFunc:  # fmt: skip
    """Codes uint8 [batch, tiles, groups, *read.code_shape]; those of padding rows are not written.

    x: rows (see `LaneRows`), or planes [batch, channels, plane], with pattern int8 [periods, 16] where they are not
    interleaved (1x1). centroids int8
    [groups * G, steps, `vectors`, 16] and score_bias int32 [groups * G, 4, 4 * `vectors`] (the same for each of four
    rows) in the order of `search_order`.
    """
    conv = isinstance(inputs, Windows)
    padded = groups * read.group

    def load(x, pattern, b, n, codebook, step: int):
        """The 16 bytes that hold this step of four positions, or four steps of each of four rows."""
        codebook = codebook if padded == codebooks else T.min(codebook, codebooks - 1)
        if not conv:
            rows = [T.min(n + r, inputs.rows - 1) if tiles * read.rows > inputs.rows else n + r for r in range(ROWS)]
            starts = [(row * inputs.codebooks + codebook) * inputs.width + step * DEPTH for row in rows]
            return [T.Bind(x.vload([start], "int8x16")) for start in starts]
        if inputs.interleaved:
            channels = [inputs.channel(codebook, step * DEPTH + i) for i in range(DEPTH)]
            parts = [x.vload([b, channel, inputs.offset(n)], "int8x16") for channel in channels]
            return [T.Bind(interleaved(parts))] * ROWS
        channel, start = inputs.origin(step)
        source = x.vload([b, inputs.channel(codebook, channel), inputs.offset(n) + start], "int8x16")
        return [T.Bind(windows(source, pattern.vload([n // ROWS % periods, 0], "int8x16")))] * ROWS

    def ranked(cost, group: int):
        return cost if search.scores_hold_index else T.Bind(with_index(cost, group))

    def best(x, centroids, bias, pattern, b, n, turn):
        sums = [[bias.vload([turn, r, j * LANES], "int32x4") for j in range(vectors)] for r in range(ROWS)]
        taken: list = []
        for step in range(steps):
            if conv or step % LANES == 0:
                taken = load(x, pattern, b, n, codebook_of(read, turn), step)
            weights = [T.Bind(centroids.vload([turn, step, j, 0], "int8x16")) for j in range(vectors)]
            for r in range(ROWS):
                lane = r if conv else step % LANES
                sums[r] = [T.Bind(lane_dot(sums[r][j], weights[j], taken[r], lane)) for j in range(vectors)]
        return best_of([[ranked(row[j], j) for j in range(vectors)] for row in sums])

    def quad_of(x, centroids, bias, pattern, codes, b, t, quad) -> None:
        def best_in(turn):
            return best(x, centroids, bias, pattern, b, t * read.rows + quad * ROWS, turn)

        if steps * read.group > _UNROLLED_STEPS:
            store_turns(best_in, codes, b, t, quad, padded, read)
        else:
            with T.serial(groups) as g:
                store_group(best_in, codes, b, t, quad, g, read)

    if not conv:
        return _of_rows(quad_of, inputs, tiles, groups, steps, vectors, read)
    return _of_planes(quad_of, inputs, plane, periods, batch, tiles, groups, steps, vectors, read)


def store_turns(best_in: Callable, codes, b, t, quad, padded: int, read: TableRead) -> None:
    """Store what four rows find: `best_in(turn)`, int32x4, a codebook at a time in the order of `search_order`."""
    joined = T.alloc_buffer((ROWS,), "int32")
    T.buffer_store(joined, T.broadcast(T.int32(0), ROWS), [T.ramp(0, 1, ROWS)])
    with T.serial(padded) as turn:
        best = T.Bind(best_in(turn))
        if read.unit > 1:
            T.buffer_store(joined, join(best, joined.vload([0], "int32x4")), [T.ramp(0, 1, ROWS)])
            best = joined.vload([0], "int32x4")
        # until a unit is complete this is overwritten in the next turn
        index = read.code_index(quad * ROWS, turn % read.group // read.unit)
        value = codes_of(best, read.unit, read.code_offset)
        T.buffer_store(codes, value, [b, t, turn // read.group, *index[:-1], T.ramp(index[-1], 1, ROWS * read.unit)])


def store_group(best_in: Callable, codes, b, t, quad, g, read: TableRead) -> None:
    """The same for the codebooks of group g, without a loop: codes are narrowed and stored once a unit."""

    def best_of_turn(turn: int):
        if turn:
            keep_apart()
        return T.Bind(best_in(g * read.group + turn))

    def put(value, j: int, lanes: int) -> None:
        index = read.code_index(quad * ROWS, j)
        T.buffer_store(codes, value, [b, t, g, *index[:-1], T.ramp(index[-1], 1, lanes)])

    if read.unit == 1 and read.group == ROWS:
        best = [best_of_turn(turn) for turn in range(ROWS)]
        words = T.Bind(T.reinterpret("int32x4", low_bits(side_by_side(best), [0])))
        for j in range(ROWS):
            put(T.reinterpret("uint8x4", T.Shuffle([words], [j])), j, ROWS)
        return
    for j in range(read.group // read.unit):
        joined = best_of_turn(j * read.unit)
        for i in range(1, read.unit):
            joined = T.Bind(join(best_of_turn(j * read.unit + i), joined))
        put(codes_of(joined, read.unit, read.code_offset), j, ROWS * read.unit)


def search_loop(batch: int, tiles: int, rows: int, row_steps: int, read: TableRead) -> tuple[Callable, Callable]:
    """The loop over tiles, and the number of fours of rows that tile t has; `row_steps` of a row's search."""
    over_tiles = T.parallel if worth_threads(batch * tiles * read.rows * row_steps * _NS_PER_STEP) else T.serial
    return over_tiles, lambda t: T.min(read.rows // ROWS, (rows - t * read.rows + ROWS - 1) // ROWS)


def _of_rows(quad_of, inputs: LaneRows, tiles: int, groups: int, steps: int, vectors: int, read: TableRead) -> PrimFunc:
    padded, size = groups * read.group, inputs.rows * inputs.codebooks * inputs.width + PART
    over_tiles, quads = search_loop(1, tiles, inputs.rows, padded * steps, read)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((size,), "int8"),
        centroids: T.Buffer((padded, steps, vectors, PART), "int8"),
        bias: T.Buffer((padded, ROWS, vectors * LANES), "int32"),
        codes: T.Buffer((1, tiles, groups, *read.code_shape), "uint8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("encode"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(x[0:size])
            T.writes(codes[0:1, 0:tiles, 0:groups])
            for t in over_tiles(tiles):
                for quad in T.serial(quads(t)):
                    quad_of(x, centroids, bias, None, codes, 0, t, quad)

    return kernel


def _of_planes(
    quad_of, inputs: Windows, plane: int, periods: int, batch: int, tiles: int, groups: int, steps: int,
    vectors: int, read: TableRead,
) -> PrimFunc:  # fmt: skip
    padded, channels, pattern_shape = groups * read.group, inputs.patches.shape[1], (periods or 1, PART)
    over_tiles, quads = search_loop(batch, tiles, inputs.patches.rows, padded * steps, read)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((batch, channels, plane), "int8"),
        centroids: T.Buffer((padded, steps, vectors, PART), "int8"),
        bias: T.Buffer((padded, ROWS, vectors * LANES), "int32"),
        pattern: T.Buffer(pattern_shape, "int8"),
        codes: T.Buffer((batch, tiles, groups, *read.code_shape), "uint8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("encode"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(x[0:batch, 0:channels, 0:plane])
            T.writes(codes[0:batch, 0:tiles, 0:groups])
            for bt in over_tiles(batch * tiles):
                b: T.let = bt // tiles
                t: T.let = bt % tiles
                for quad in T.serial(quads(t)):
                    quad_of(x, centroids, bias, pattern, codes, b, t, quad)

    if periods:
        return kernel
    params = [p for i, p in enumerate(kernel.params) if i != 3]  # without the pattern
    return PrimFunc(params, kernel.body, kernel.ret_type, kernel.attrs)
