"""Walking down hash trees (Maddness): subvectors of x -> uint8 codes, by one comparison a level.

This is the meaning in logical layouts: the oracle, and the kernel of trees that no table register holds.
"""

from __future__ import annotations

from tvm import te, tirx

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search


def encode_tree(
    x, inv_scale, split_dims, split_thresholds, *, patches: Patches, search: Search, length: int
) -> te.Tensor:
    """Codes uint8 [N, C] (dense) or [B, C, N] (conv), for any number of levels.

    inv_scale float32 [C] for int8; split_dims int32 [C, L], elements of a subvector of `length`; split_thresholds
    float32 [C, 2^L - 1], node i above the nodes 2i + 1 and 2i + 2.
    """
    num_codebooks, levels = (int(d) for d in split_dims.shape)
    shape = (patches.batch, patches.rows, num_codebooks)

    def element(b, n, c, level):
        value = patches.element(x, b, n, c, length, split_dims[c, level])
        return value if inv_scale is None else search.quantize(value, inv_scale[c], "float32")

    values = te.compute((*shape, levels), element, name="lut_x")
    node = te.compute(shape, lambda *_: tirx.const(0, "int32"), name="lut_node")
    for level in range(levels):
        node = te.compute(shape, _child(node, values, split_thresholds, level), name=f"lut_node_{level}")

    def code(b, n, c):
        return (node[b, n, c] - (2**levels - 1)).astype("uint8")

    if patches.is_conv:
        return te.compute((patches.batch, num_codebooks, patches.rows), lambda b, c, n: code(b, n, c), name="lut_codes")
    return te.compute((patches.rows, num_codebooks), lambda n, c: code(0, n, c), name="lut_codes")


def _child(node: te.Tensor, values: te.Tensor, thresholds: te.Tensor, level: int):
    def child(b, n, c):
        # false where the value or the threshold is not a number
        right = values[b, n, c, level] >= thresholds[c, node[b, n, c]]
        return 2 * node[b, n, c] + tirx.Select(right, tirx.const(2, "int32"), tirx.const(1, "int32"))

    return child
