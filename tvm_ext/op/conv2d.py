"""R.lut.conv2d: a convolution as lookup tables; DecomposeLUT turns it into encode + lookup_accumulate."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op._register import attributes, given, int_tuple, optional, register
from tvm_ext.op._search import check_codebooks, check_same_centroids, patches_of, search_of, trees_of
from tvm_ext.op.encode import encode
from tvm_ext.op.lookup_accumulate import lookup_accumulate

NAME = "lut.conv2d"


def conv2d(
    x: relax.Expr, centroids: relax.Expr | None, table: relax.Expr, table_scale: relax.Expr,
    bias: relax.Expr | None = None, inv_scale: relax.Expr | None = None, score_bias: relax.Expr | None = None,
    mult: relax.Expr | None = None, split_dims: relax.Expr | None = None, split_thresholds: relax.Expr | None = None,
    *, kernel_shape: tuple[int, int], strides: tuple[int, int] = (1, 1), pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1), encoder: str = "l2", encode_dtype: str = "float32", input_signed: bool = True,
    subvector_len: int = 0, layer: str = "",
) -> relax.Call:  # fmt: skip
    """A group-1 convolution of x float32 [B, Cin, H, W], zero padded by `pads` (top, left, bottom, right).

    The patch is flattened as ``d = (channel * kh + i) * kw + j`` and cut into C = ceil(Cin * kh * kw / V) subvectors;
    the other arguments as in `encode` and `lookup_accumulate`. The result is float32 [B, M, OH, OW].
    """
    attrs = attributes(
        encoder=encoder, encode_dtype=encode_dtype, input_signed=bool(input_signed), kernel_shape=tuple(kernel_shape),
        strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations), subvector_len=subvector_len, layer=layer,
    )  # fmt: skip
    args = [x, optional(centroids), table, table_scale, *map(optional, (bias, inv_scale, score_bias, mult))]
    return relax.Call(OP, args + trees_of(split_dims, split_thresholds), attrs)


def decompose(bb: relax.BlockBuilder, call: relax.Call) -> relax.Call:
    """The same value as encode, emitted to `bb`, and lookup_accumulate, returned."""
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, *trees = call.args
    a = call.attrs
    geometry = {name: int_tuple(a[name]) for name in ("kernel_shape", "strides", "pads", "dilations")}
    codes = bb.emit(
        encode(
            x, given(centroids), given(inv_scale), given(score_bias), None, *trees, encoder=str(a["encoder"]),
            encode_dtype=str(a["encode_dtype"]), input_signed=bool(int(a["input_signed"])),
            subvector_len=int(a["subvector_len"]), layer=str(a["layer"]),
            **geometry,
        )
    )  # fmt: skip
    return lookup_accumulate(codes, table, table_scale, given(bias), given(mult), axis=1, layer=str(a["layer"]))


def _infer(call: relax.Call, bb: relax.BlockBuilder) -> relax.TensorType:
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, *trees = call.args
    patches = patches_of(NAME, x, call.attrs)
    search, length = search_of(NAME, call.attrs), int(call.attrs["subvector_len"])
    c, k, _ = check_codebooks(NAME, patches, search, centroids, inv_scale, score_bias, trees, length)
    check_same_centroids(NAME, k, table)
    codes = relax.Var("codes", relax.TensorType([patches.batch, c, *patches.output_size], "uint8"))
    return bb.normalize(lookup_accumulate(codes, table, table_scale, given(bias), given(mult), axis=1)).ty


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return decompose(bb, call)


OP: tvm.ir.Op = register(
    "conv2d",
    ["x", "centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult"],
    _infer,
    _legalize,
    conv2d,
)
