"""R.lut.conv2d: a convolution as lookup tables; DecomposeLUT turns it into encode + lookup_accumulate."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op._register import attributes, given, int_tuple, optional, register
from tvm_ext.op._search import check_codebooks, check_same_centroids, patches_of, search_of
from tvm_ext.op.encode import encode
from tvm_ext.op.lookup_accumulate import lookup_accumulate

NAME = "lut.conv2d"


def conv2d(
    x: relax.Expr, centroids: relax.Expr, table: relax.Expr, table_scale: relax.Expr, bias: relax.Expr | None = None,
    inv_scale: relax.Expr | None = None, score_bias: relax.Expr | None = None, mult: relax.Expr | None = None,
    *, kernel_shape: tuple[int, int], strides: tuple[int, int] = (1, 1), pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1), encoder: str = "l2", encode_dtype: str = "float32", input_signed: bool = True,
    layer: str = "",
) -> relax.Call:  # fmt: skip
    """A group-1 convolution of x float32 [B, Cin, H, W], zero padded by `pads` (top, left, bottom, right).

    The patch is flattened as ``d = (channel * kh + i) * kw + j`` and cut into C = ceil(Cin * kh * kw / V) subvectors;
    the other arguments as in `encode` and `lookup_accumulate`. The result is float32 [B, M, OH, OW].
    """
    attrs = attributes(
        encoder=encoder, encode_dtype=encode_dtype, input_signed=bool(input_signed), kernel_shape=tuple(kernel_shape),
        strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations), layer=layer,
    )  # fmt: skip
    args = [x, centroids, table, table_scale, *(optional(a) for a in (bias, inv_scale, score_bias, mult))]
    return relax.Call(OP, args, attrs)


def decompose(bb: relax.BlockBuilder, call: relax.Call) -> relax.Call:
    """The same value as encode, emitted to `bb`, and lookup_accumulate, returned."""
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult = call.args
    a = call.attrs
    geometry = {name: int_tuple(a[name]) for name in ("kernel_shape", "strides", "pads", "dilations")}
    codes = bb.emit(
        encode(
            x, centroids, given(inv_scale), given(score_bias), encoder=str(a["encoder"]),
            encode_dtype=str(a["encode_dtype"]), input_signed=bool(int(a["input_signed"])), layer=str(a["layer"]),
            **geometry,
        )
    )  # fmt: skip
    return lookup_accumulate(codes, table, table_scale, given(bias), given(mult), axis=1, layer=str(a["layer"]))


def _infer(call: relax.Call, bb: relax.BlockBuilder) -> relax.TensorType:
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult = call.args
    patches = patches_of(NAME, x, call.attrs)
    c, _, _ = check_codebooks(NAME, patches, search_of(NAME, call.attrs), centroids, inv_scale, score_bias)
    check_same_centroids(NAME, centroids, table)
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
