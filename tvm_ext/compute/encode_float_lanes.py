"""Exact float32 closest-centroid search of AArch64 with centroids in vector lanes, multiplied by single inputs.

K <= 16. Four rows and one codebook at a time: 64 sums in 16 registers, beside which 4 registers of centroids and 4
inputs have room. Sixteen rows in lanes, which suit wider registers, would leave none.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.encode_lanes import codebook_of, search_loop, store_turns
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.windows import Windows
from tvm_ext.tensor_intrin import TableRead
from tvm_ext.tensor_intrin._lane_search import LANES, ROWS, first_best, lane_fma

_UNROLLED = 16
"""Elements of a subvector up to which the loop over them is unrolled."""


def encode_float_lanes(
    inputs: Patches | Windows, *, length: int, vectors: int, plane: int, batch: int, tiles: int, groups: int,
    codebooks: int, read: TableRead,
) -> PrimFunc:  # fmt: skip
    """Codes uint8 [batch, tiles, groups, *read.code_shape]; those of padding rows are not written.

    x: float32 rows [N, D], or planes [batch, channels, plane]. centroids float32 [groups * G, V, `vectors`, 4] and bias
    float32 [groups * G, 4, 4 * `vectors`] as `pack_float_lanes` makes them.
    """
    padded = groups * read.group
    conv = isinstance(inputs, Windows)
    patches = inputs.patches if isinstance(inputs, Windows) else inputs
    rows, shape = patches.rows, (batch, patches.shape[1], plane) if conv else patches.shape

    def fetch(x, b, n, codebook, v):
        """Element v of a subvector; padding meets centroids of zero, so it is any element of the same row."""
        if isinstance(inputs, Windows):
            channel, at = inputs.element(n, v)
            return x[b, inputs.channel(codebook, channel), at]
        row = T.min(n, rows - 1) if tiles * read.rows > rows else n
        d = codebook * length + v
        return x[row, d if patches.depth % length == 0 else T.min(d, patches.depth - 1)]

    def add_products(x, centroids, sums: list, b, n, turn, v) -> list:
        codebook = codebook_of(read, turn)
        codebook = codebook if padded == codebooks else T.min(codebook, codebooks - 1)
        weights = [T.Bind(centroids.vload([turn, v, j, 0], "float32x4")) for j in range(vectors)]
        values = [T.Bind(fetch(x, b, n + r, codebook, v)) for r in range(ROWS)]
        return [[T.Bind(lane_fma(row[j], weights[j], value)) for j in range(vectors)]
                for row, value in zip(sums, values, strict=True)]  # fmt: skip

    def search(x, centroids, bias, b, n, turn):
        sums = [[bias.vload([turn, r, j * LANES], "float32x4") for j in range(vectors)] for r in range(ROWS)]
        if length <= _UNROLLED:
            for v in range(length):
                sums = add_products(x, centroids, sums, b, n, turn, v)
            return first_best(sums)
        acc = T.alloc_buffer((ROWS, vectors * LANES), "float32")
        _store(acc, sums)
        with T.serial(length) as v:
            _store(acc, add_products(x, centroids, _loaded(acc, vectors), b, n, turn, v))
        return first_best(_loaded(acc, vectors))

    def quad_of(x, centroids, bias, codes, b, t, quad) -> None:
        def best_in(turn):
            return search(x, centroids, bias, b, t * read.rows + quad * ROWS, turn)

        store_turns(best_in, codes, b, t, quad, padded, read)

    over_tiles, quads = search_loop(batch, tiles, rows, padded * length, read)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(shape, "float32"),
        centroids: T.Buffer((padded, length, vectors, LANES), "float32"),
        bias: T.Buffer((padded, ROWS, vectors * LANES), "float32"),
        codes: T.Buffer((batch, tiles, groups, *read.code_shape), "uint8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("encode"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(centroids[0:padded, 0:length])
            T.writes(codes[0:batch, 0:tiles, 0:groups])
            for bt in over_tiles(batch * tiles):
                b: T.let = bt // tiles
                t: T.let = bt % tiles
                for quad in T.serial(quads(t)):
                    quad_of(x, centroids, bias, codes, b, t, quad)

    return kernel


def _store(acc, sums: list) -> None:
    for r, row in enumerate(sums):
        for j, value in enumerate(row):
            T.buffer_store(acc, value, [r, T.ramp(j * LANES, 1, LANES)])


def _loaded(acc, vectors: int) -> list:
    return [[acc[r, T.ramp(j * LANES, 1, LANES)] for j in range(vectors)] for r in range(ROWS)]
