"""Closest-centroid search of few rows: centroids of a codebook in vector lanes, elements of a row broadcast."""

from __future__ import annotations

from tvm import te, tirx

from tvm_ext.compute.encode import LANES, sum_from, tagged, untagged
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.tensor_intrin import Dot


def encode_few_rows(
    x, centroids, inv_scale, score_bias, *, patches: Patches, search: Search, length: int, dot: Dot
) -> te.Tensor:
    """Codes uint8 [N, C] of a dense layer by the integer search.

    x float32 [N, D]; centroids [C, T, 16, depth], inv_scale float32 [C] and score_bias int32 [C, 16] as `pack_few_rows`
    makes them.
    """
    num_codebooks, steps, _, depth = (int(d) for d in centroids.shape)
    shape = (patches.rows, num_codebooks)
    last = tirx.const(length - 1, "int32")

    def element(n, c, v):
        # padding slots meet zero centroids: any element will do
        value = patches.element(x, 0, n, c, length, v if length % depth == 0 else tirx.min(v, last))
        return search.quantize(value, inv_scale[c], dot.x_dtype)

    subvector = te.compute((*shape, steps * depth), element, name="lut_x")
    t, i, k = (te.reduce_axis((0, e), n) for e, n in ((steps, "t"), (depth, "i"), (LANES, "k")))

    def product(n, c, kk):
        left, right = centroids[c, t, kk, i], subvector[n, c, t * depth + i]
        return sum_from(score_bias[c, kk])(left.astype("int32") * right.astype("int32"), axis=[t, i])

    score = te.compute((*shape, LANES), product, name="lut_score")
    ranked = te.compute((*shape, LANES), lambda n, c, kk: tagged(score[n, c, kk], kk), name="lut_ranked")
    best = te.compute(shape, lambda n, c: te.max(ranked[n, c, k], axis=k), name="lut_best")
    return te.compute(shape, lambda n, c: untagged(best[n, c]).astype("uint8"), name="lut_codes")
