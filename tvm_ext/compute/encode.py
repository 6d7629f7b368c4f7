"""Closest-centroid search: subvectors of x -> uint8 codes.

`encode_rowwise` reads and writes logical layouts: it is the oracle and the kernel for K > 16.
`encode_tiled` writes the tiles of codes that an ISA's table read wants, 16 rows to a vector.
Scores (both): integer ``score = sum_v xq * cq + score_bias``, compared after ``>> 4``; float32 ``x . P + score_bias``,
or where there is none ``x . P - |P|^2 / 2`` (tiled) or ``-|x - P|^2`` (row-wise). The highest score wins, the lowest
index on ties.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.windows import LANES, Windows
from tvm_ext.tensor_intrin import Dot, TableRead, Window

INDEX_BITS = 4
"""Low bits of an integer score that carry the index (the shift of the definition)."""


def _first_maximum(dtype: str):
    """Reducer over (index, score) that keeps the first of the highest scores."""

    def combine(best, new):
        wins = new[1] > best[1]
        return tirx.Select(wins, new[0], best[0]), tirx.Select(wins, new[1], best[1])

    return te.comm_reducer(combine, lambda i, _: (tirx.const(0, i), te.min_value(dtype)), name="first_maximum")


def sum_from(start):
    """Reducer that adds to `start`, which costs no addition of its own."""
    return te.comm_reducer(lambda total, value: total + value, lambda _: start, name="sum_from")


def encode_rowwise(
    x, centroids, inv_scale, score_bias, *, patches: Patches, search: Search, packed: bool = False
) -> te.Tensor:
    """Codes uint8 [N, C] (dense) or [B, C, N] (conv), for any K up to 256.

    centroids int8 or float32 [C, K, V], or [C, V, K] if `packed`, so that centroids lie in vector lanes; inv_scale
    float32 [C] of an integer search, score_bias int32 [C, K] of one, or float32 or None.
    """
    num_codebooks = int(centroids.shape[0])
    length, num_centroids = (int(d) for d in (centroids.shape[1:] if packed else centroids.shape[:0:-1]))
    integer = search.integer
    acc_dtype, scored = "int32" if integer else "float32", score_bias is not None
    batch, rows = patches.batch, patches.rows
    v, k = te.reduce_axis((0, length), "v"), te.reduce_axis((0, num_centroids), "k")

    def element(b, n, c, i):
        value = patches.element(x, b, n, c, length, i)
        return search.quantize(value, inv_scale[c], "int16") if integer else value

    subvector = te.compute((batch, rows, num_codebooks, length), element, name="lut_x")

    def product(b, n, c, kk):
        right = (centroids[c, v, kk] if packed else centroids[c, kk, v]).astype(acc_dtype)
        left = subvector[b, n, c, v].astype(acc_dtype)
        return te.sum(left * right if scored else (left - right) * (left - right), axis=v)

    score = te.compute((batch, rows, num_codebooks, num_centroids), product, name="lut_score")
    shape = (batch, rows, num_codebooks)
    if integer and num_centroids <= LANES:
        best = te.compute(
            shape, lambda b, n, c: te.max(tagged(score[b, n, c, k] + score_bias[c, k], k.var), axis=k), name="lut_best"
        )
    else:
        # the highest score, or the least distance; the first of equals
        def ranked(b, n, c, kk):
            if not scored:
                return -score[b, n, c, kk]
            found = score[b, n, c, kk] + score_bias[c, kk]
            return found >> INDEX_BITS if integer else found

        best, _ = te.compute(
            shape,
            lambda b, n, c: _first_maximum(acc_dtype)((k.var.astype("int32"), ranked(b, n, c, k)), axis=k),
            name="lut_best",
        )

    def code(b, n, c):
        return (untagged(best[b, n, c]) if integer and num_centroids <= LANES else best[b, n, c]).astype("uint8")

    if patches.is_conv:
        return te.compute((batch, num_codebooks, rows), lambda b, c, n: code(b, n, c), name="lut_codes")
    return te.compute((rows, num_codebooks), lambda n, c: code(0, n, c), name="lut_codes")


def tagged(score, k):
    """The index rides in the bits that the definition shifts away; 15 - k lets the lowest index win a tie."""
    return (score & tirx.const(-LANES, "int32")) | (tirx.const(LANES - 1, "int32") - k.astype("int32"))


def untagged(best):
    """The index of a tagged score."""
    return tirx.const(LANES - 1, "int32") - (best & (LANES - 1))


def encode_tiled(
    x, centroids, inv_scale, score_bias, pattern,
    *, patches: Patches, search: Search, length: int, num_codebooks: int, tiles: int, windows: Windows | None,
    read: TableRead, dot: Dot, window: Window | None, regroup: bool,
) -> te.Tensor:  # fmt: skip
    """Codes uint8 [B, tiles, groups, *read.code_shape], K <= 16.

    x is a plane [B, Cin, size] where `windows` is given, else as in `encode_rowwise`. centroids [groups * G, K, T,
    depth], inv_scale float32 [groups * G] and score_bias int32 or float32 [groups * G, K] as `pack_search` makes them;
    pattern [period, window.rows, depth] where the ISA collects windows. Codes of padding rows and
    codebooks are unspecified.
    """
    padded, num_centroids, steps, depth = (int(d) for d in centroids.shape)
    integer = search.integer
    acc_dtype = "int32" if integer else "float32"
    groups, batch, lanes = padded // read.group, patches.batch, dot.block
    blocks = tiles * read.rows // lanes

    def real(codebook):
        return codebook if padded == num_codebooks else tirx.min(codebook, tirx.const(num_codebooks - 1, "int32"))

    shape = (batch, padded, blocks, steps, lanes, depth)
    if pattern is not None:
        subvector = _collect(x, pattern, windows, real, window, shape)
    else:
        if windows is not None:
            fetch = _from_plane(x, windows, real, dot)
        elif regroup:
            fetch = _from_rows(x, inv_scale, patches, search, dot, real, (padded, blocks, length))
        else:
            fetch = _direct(x, inv_scale, patches, search, length, dot, real)
        subvector = te.compute(shape, lambda b, c, block, t, lane, i: fetch(b, block, lane, c, t, i), name="lut_x")
    t, i, k = (te.reduce_axis((0, e), n) for e, n in ((steps, "t"), (depth, "i"), (num_centroids, "k")))

    def product(b, c, kk, n):
        left = subvector[b, c, n // lanes, t, n % lanes, i].astype(acc_dtype)
        return sum_from(score_bias[c, kk])(left * centroids[c, kk, t, i].astype(acc_dtype), axis=[t, i])

    score = te.compute((batch, padded, num_centroids, blocks * lanes), product, name="lut_score")
    best = _best(score, k, search, (batch, padded, blocks * lanes))

    def packed(b, tile, group, *index):
        row, codebook = read.code_position(*index)
        winner = best[b, group * read.group + codebook, tile * read.rows + row]
        if integer:
            winner = untagged(winner)
        return (winner + read.code_start(codebook)).astype("uint8")

    return te.compute((batch, tiles, groups, *read.code_shape), packed, name="lut_codes")


def _collect(plane, pattern, windows: Windows, real: Callable, window: Window, shape: tuple[int, ...]):
    """lut_x from windows of the plane, in the one-hot form that the ISA's permutation is tensorized into."""
    (period, rows, _), lanes, dtype = (int(d) for d in pattern.shape), shape[4], window.collected
    s = te.reduce_axis((0, window.span), "s")

    def element(b, c, block, t, lane, i):
        channel, start = windows.origin(t)
        part = block * (lanes // rows) + lane // rows
        value = plane[b, windows.channel(real(c), channel), windows.offset(part * rows) + start + s]
        taken = pattern[part % period, lane % rows, i] == (s.var + window.index_offset).astype(pattern.dtype)
        return te.sum(tirx.Select(taken, value.astype(dtype), tirx.const(0, dtype)), axis=s)

    return te.compute(shape, element, name="lut_x")


def _from_plane(plane, windows: Windows, real: Callable, dot: Dot) -> Callable:
    """fetch(b, block, lane, c, t, i): slot i of step t of a subvector, one element at a time."""
    last, dtype = tirx.const(windows.length - 1, "int32"), dot.x_dtype

    def fetch(b, block, lane, c, t, i):
        n = block * dot.block + lane
        # padding slots meet zero centroids, so they may read any element that is there
        if windows.interleaved:
            return plane[b, real(c) * windows.length + t * windows.depth + i, n].astype(dtype)
        if windows.aligned:
            channel, start = windows.origin(t)
            at = windows.offset(n) + start + i * windows.patches.dilations[1]
        else:
            channel, at = windows.element(n, tirx.min(t * windows.depth + i, last))
        return plane[b, windows.channel(real(c), channel), at].astype(dtype)

    return fetch


def _from_rows(x, inv_scale, patches: Patches, search: Search, dot: Dot, real: Callable, shape) -> Callable:
    """The same from rows whose subvectors are runs of four dwords: quantized ("lut_quantized") if need be, regrouped.

    The quantized rows of a block lie as `regroup_intrin` reads them.
    """
    padded, blocks, length = shape
    run = 4 * dot.depth

    def element(c, block, part, r, lane, i):
        row = tirx.min(block * dot.block + lane * 4 + r, tirx.const(patches.rows - 1, "int32"))
        value = patches.element(x, 0, row, real(c), length, part * run + i)
        return value if inv_scale is None else search.quantize(value, inv_scale[real(c)], dot.x_dtype)

    quantized = te.compute((padded, blocks, length // run, 4, dot.block // 4, run), element, name="lut_quantized")

    def fetch(_, block, lane, c, t, i):
        return quantized[c, block, t // 4, lane % 4, lane // 4, t % 4 * dot.depth + i]

    return fetch


def _direct(x, inv_scale, patches: Patches, search: Search, length: int, dot: Dot, real: Callable) -> Callable:
    """The same from x itself, quantized at each reading unless it was before."""

    def fetch(b, block, lane, c, t, i):
        v, row = t * dot.depth + i, tirx.min(block * dot.block + lane, tirx.const(patches.rows - 1, "int32"))
        value = patches.element(x, b, row, real(c), length, v)
        if inv_scale is not None:
            value = search.quantize(value, inv_scale[real(c)], dot.x_dtype)
        return value if length % dot.depth == 0 else tirx.if_then_else(v < length, value, tirx.const(0, dot.x_dtype))

    return fetch


def _best(score, k, search: Search, shape: tuple[int, ...]) -> te.Tensor:
    if not search.integer:
        best, _ = te.compute(
            shape,
            lambda b, c, n: _first_maximum("float32")((k.var.astype("int32"), score[b, c, k, n]), axis=k),
            name="lut_best",
        )
        return best

    def ranked(b, c, n):
        return score[b, c, k, n] if search.scores_hold_index else tagged(score[b, c, k, n], k.var)

    return te.compute(shape, lambda b, c, n: te.max(ranked(b, c, n), axis=k), name="lut_best")
