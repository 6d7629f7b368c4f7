"""Closest-centroid search: subvectors of x -> uint8 codes.

`encode_rowwise` reads and writes logical layouts: it is the oracle and the kernel for K > 16.
`encode_tiled` writes the tiles of codes that an ISA's table read wants, 16 rows to a vector.
Scores (both): int8 ``score = sum_v xq * cq + score_bias``, compared after ``>> 4``; float32 ``x . P - |P|^2 / 2``
(tiled) or ``-|x - P|^2`` (row-wise). The highest score wins, the lowest index on ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx

from tvm_ext.compute.patches import Patches
from tvm_ext.tensor_intrin import Dot, TableRead

INDEX_BITS = 4
"""Low bits of an int8 score that carry the index (the shift of the definition)."""
LANES = 16


@dataclass(frozen=True)
class Search:
    """How codes are found: `encode_dtype` "int8" or "float32", `input_signed` for int8, `zero_point` added to xq."""

    encode_dtype: str
    input_signed: bool
    zero_point: int = 0

    def quantize(self, x, inv_scale, dtype: str):
        """clip(round_half_even(x * inv_scale)) + zero_point, as `dtype`. NaN becomes the lower or upper bound."""
        low, high = (-128.0, 127.0) if self.input_signed else (0.0, 255.0)
        rounded = tirx.nearbyint(x * inv_scale)
        bounded = tirx.max(tirx.min(rounded, tirx.const(high, "float32")), tirx.const(low, "float32"))
        code = bounded.astype("int32")
        return (code + tirx.const(self.zero_point, "int32") if self.zero_point else code).astype(dtype)


def _first_maximum(dtype: str):
    """Reducer over (index, score) that keeps the first of the highest scores."""

    def combine(best, new):
        wins = new[1] > best[1]
        return tirx.Select(wins, new[0], best[0]), tirx.Select(wins, new[1], best[1])

    return te.comm_reducer(combine, lambda i, _: (tirx.const(0, i), te.min_value(dtype)), name="first_maximum")


def encode_rowwise(x, centroids, inv_scale, score_bias, *, patches: Patches, search: Search) -> te.Tensor:
    """Codes uint8 [N, C] (dense) or [B, C, N] (conv), for any K up to 256.

    centroids [C, K, V] int8 or float32; inv_scale float32 [C] and score_bias int32 [C, K] for int8.
    """
    num_codebooks, num_centroids, length = (int(d) for d in centroids.shape)
    integer = search.encode_dtype == "int8"
    acc_dtype = "int32" if integer else "float32"
    batch, rows = patches.batch, patches.rows
    v, k = te.reduce_axis((0, length), "v"), te.reduce_axis((0, num_centroids), "k")

    def element(b, n, c, i):
        value = patches.element(x, b, n, c * length + i)
        return search.quantize(value, inv_scale[c], "int16") if integer else value

    subvector = te.compute((batch, rows, num_codebooks, length), element, name="lut_x")

    def product(b, n, c, kk):
        left, right = subvector[b, n, c, v].astype(acc_dtype), centroids[c, kk, v].astype(acc_dtype)
        return te.sum(left * right if integer else (left - right) * (left - right), axis=v)

    score = te.compute((batch, rows, num_codebooks, num_centroids), product, name="lut_score")

    def ranked(b, n, c, kk):
        if integer:
            return (score[b, n, c, kk] + score_bias[c, kk]) >> INDEX_BITS
        return tirx.const(0, "float32") - score[b, n, c, kk]

    best, _ = te.compute(
        (batch, rows, num_codebooks),
        lambda b, n, c: _first_maximum(acc_dtype)((k.var.astype("int32"), ranked(b, n, c, k)), axis=k),
        name="lut_best",
    )
    if patches.is_conv:
        return te.compute((batch, num_codebooks, rows), lambda b, c, n: best[b, n, c].astype("uint8"), name="lut_codes")
    return te.compute((rows, num_codebooks), lambda n, c: best[0, n, c].astype("uint8"), name="lut_codes")


def encode_tiled(
    x, centroids, inv_scale, score_bias,
    *, patches: Patches, search: Search, length: int, num_codebooks: int, tiles: int, read: TableRead,
    dot: Dot,
) -> te.Tensor:  # fmt: skip
    """Codes uint8 [B, tiles, groups, *read.code_shape], K <= 16.

    centroids [groups * G, K, T, depth] (T = ceil(V / depth)); inv_scale float32 [groups * G]; score_bias
    [groups * G, K] int32, or float32 ``-|P|^2 / 2``. Padding rows repeat the last row; padding codebooks the last one.
    """
    padded, num_centroids, steps, depth = (int(d) for d in centroids.shape)
    integer = search.encode_dtype == "int8"
    acc_dtype = "int32" if integer else "float32"
    x_dtype = dot.x_dtype if integer else "float32"
    groups, batch = padded // read.group, patches.batch
    row_blocks = tiles * read.rows // LANES

    fetch = _fetcher(x, inv_scale, patches, search, length, x_dtype)

    def element(b, c, block, t, lane, i):
        real_c = c if padded == num_codebooks else tirx.min(c, tirx.const(num_codebooks - 1, "int32"))
        row = block * LANES + lane
        real_row = row if row_blocks * LANES == patches.rows else tirx.min(row, tirx.const(patches.rows - 1, "int32"))
        offset = t * depth + i
        value = fetch(b, real_row, real_c, offset)
        return value if steps * depth == length else tirx.if_then_else(offset < length, value, tirx.const(0, x_dtype))

    subvector = te.compute((batch, padded, row_blocks, steps, LANES, depth), element, name="lut_x")
    t, i, k = (te.reduce_axis((0, e), n) for e, n in ((steps, "t"), (depth, "i"), (num_centroids, "k")))
    score = te.compute(
        (batch, padded, num_centroids, row_blocks * LANES),
        lambda b, c, kk, n: te.sum(
            subvector[b, c, n // LANES, t, n % LANES, i].astype(acc_dtype) * centroids[c, kk, t, i].astype(acc_dtype),
            axis=[t, i],
        ),
        name="lut_score",
    )
    best = _best(score, score_bias, k, integer, (batch, padded, row_blocks * LANES))

    def packed(b, tile, group, *index):
        row, codebook = read.code_position(*index)
        winner = best[b, group * read.group + codebook, tile * read.rows + row]
        if integer:
            winner = tirx.const(LANES - 1, "int32") - (winner & (LANES - 1))
        return winner.astype("uint8")

    return te.compute((batch, tiles, groups, *read.code_shape), packed, name="lut_codes")


def _fetcher(x, inv_scale, patches: Patches, search: Search, length: int, dtype: str) -> Callable:
    """fetch(b, n, c, v): the value of an input element as the search wants it, from a bordered plane for convs."""
    integer = search.encode_dtype == "int8"

    def convert(value, c):
        return search.quantize(value, inv_scale[c], dtype) if integer else value

    if not patches.is_conv or (integer and not patches.whole_channels(length)):
        return lambda b, n, c, v: convert(patches.element(x, b, n, c * length + v), c)
    # every channel belongs to one codebook, so it is quantized once, with its zero border, and read many times
    plane = te.compute(
        patches.plane_shape,
        lambda b, ch, h, w: convert(patches.bordered(x, b, ch, h, w), ch * patches.taps // length),
        name="lut_plane",
    )
    return lambda b, n, c, v: patches.from_plane(plane, b, n, c * length + v)


def _best(score, score_bias, k, integer: bool, shape: tuple[int, ...]) -> te.Tensor:
    if not integer:
        best, _ = te.compute(
            shape,
            lambda b, c, n: _first_maximum("float32")(
                (k.var.astype("int32"), score[b, c, k, n] + score_bias[c, k]), axis=k
            ),
            name="lut_best",
        )
        return best

    def tagged(b, c, n):
        # the index rides in the bits the definition shifts away; 15 - k lets the lowest index win a tie
        high = (score[b, c, k, n] + score_bias[c, k]) & tirx.const(-LANES, "int32")
        return te.max(high | (tirx.const(LANES - 1, "int32") - k.var.astype("int32")), axis=k)

    return te.compute(shape, tagged, name="lut_best")
