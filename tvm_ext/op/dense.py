"""R.lut.dense: a dense layer as lookup tables; DecomposeLUT turns it into encode + lookup_accumulate."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op._register import attributes, given, optional, register, static_shape
from tvm_ext.op._search import check_codebooks, check_same_centroids, patches_of, search_of, trees_of
from tvm_ext.op.encode import encode
from tvm_ext.op.lookup_accumulate import lookup_accumulate

NAME = "lut.dense"


def dense(
    x: relax.Expr, centroids: relax.Expr | None, table: relax.Expr, table_scale: relax.Expr,
    bias: relax.Expr | None = None, inv_scale: relax.Expr | None = None, score_bias: relax.Expr | None = None,
    mult: relax.Expr | None = None, split_dims: relax.Expr | None = None, split_thresholds: relax.Expr | None = None,
    *, encoder: str = "l2", encode_dtype: str = "float32", input_signed: bool = True, subvector_len: int = 0,
    layer: str = "",
) -> relax.Call:  # fmt: skip
    """``y[..., m] = bias[m] + table_scale[m] * sum_c mult[c] * table[c, code[..., c], m]``; x float32 [..., D].

    centroids [C, K, V] with C = ceil(D / V); the other arguments as in `encode` and `lookup_accumulate`.
    """
    attrs = attributes(
        encoder=encoder, encode_dtype=encode_dtype, input_signed=bool(input_signed), subvector_len=subvector_len,
        layer=layer,
    )  # fmt: skip
    args = [x, optional(centroids), table, table_scale, *map(optional, (bias, inv_scale, score_bias, mult))]
    return relax.Call(OP, args + trees_of(split_dims, split_thresholds), attrs)


def decompose(bb: relax.BlockBuilder, call: relax.Call) -> relax.Call:
    """The same value as encode, emitted to `bb`, and lookup_accumulate, returned."""
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, *trees = call.args
    a = call.attrs
    codes = bb.emit(
        encode(
            x, given(centroids), given(inv_scale), given(score_bias), None, *trees, encoder=str(a["encoder"]),
            encode_dtype=str(a["encode_dtype"]), input_signed=bool(int(a["input_signed"])),
            subvector_len=int(a["subvector_len"]), layer=str(a["layer"]),
        )
    )  # fmt: skip
    return lookup_accumulate(codes, table, table_scale, given(bias), given(mult), layer=str(a["layer"]))


def _infer(call: relax.Call, bb: relax.BlockBuilder) -> relax.TensorType:
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, *trees = call.args
    patches = patches_of(NAME, x, call.attrs)
    search, length = search_of(NAME, call.attrs), int(call.attrs["subvector_len"])
    c, k, _ = check_codebooks(NAME, patches, search, centroids, inv_scale, score_bias, trees, length)
    check_same_centroids(NAME, k, table)
    codes = relax.Var("codes", relax.TensorType([*static_shape(x, NAME, "x")[:-1], c], "uint8"))
    return bb.normalize(lookup_accumulate(codes, table, table_scale, given(bias), given(mult))).ty


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return decompose(bb, call)


OP: tvm.ir.Op = register(
    "dense",
    ["x", "centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult"],
    _infer,
    _legalize,
    dense,
)
