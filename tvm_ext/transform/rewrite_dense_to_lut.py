"""RewriteDenseToLUT: R.matmul with a constant weight and a codebook -> R.lut.dense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax

from tvm_ext import op as lut
from tvm_ext.transform._from_weights import CodebookLike, Decisions, lut_arguments
from tvm_ext.transform._rewrite import add_layer_rows, array, has_static_shape, is_constant, layer_name, rewrite_module

_MATMUL = tvm.ir.Op.get("relax.matmul")
_TRANSPOSE = tvm.ir.Op.get("relax.permute_dims")


@tvm.transform.module_pass(opt_level=0, name="RewriteDenseToLUT")
class RewriteDenseToLUT:
    """Rewrites ``R.matmul(x, W)`` and ``R.matmul(x, R.permute_dims(W))`` with W constant and 2-D.

    codebooks: {layer name (the call's span): codebook}. A bias add behind it is left to FoldScaleIntoTable. Layers
    without a codebook, and what does not fit, stay float; why is recorded in the module (`layer_rows`).
    """

    def __init__(self, codebooks: Mapping[str, CodebookLike]) -> None:
        self.codebooks = codebooks

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        decisions = Decisions("dense", self.codebooks)

        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op != _MATMUL:
                return None
            name = layer_name(call, f"matmul_{len(decisions.rows)}")
            weight = _constant_weight(rewriter, call.args[1])
            if weight is None:
                return None  # a product of two activations is no layer, nor is a constant times one
            if not has_static_shape(call.args[0]):
                decisions.keep_float(name, "the shape of its input is not static")
                return None
            if str(call.ty.dtype) != "float32" or weight.ndim != 2:
                decisions.keep_float(name, f"weight is {weight.dtype} with {weight.ndim} axes, not a float32 matrix")
                return None
            book = decisions.codebook(name, weight.shape[0])
            if book is None:
                return None
            (centroids, table, scale, bias, inv_scale, score_bias), attrs = lut_arguments(book, weight.T)
            return lut.dense(call.args[0], centroids, table, scale, bias, inv_scale, score_bias, layer=name, **attrs)

        new = rewrite_module(mod, rewrite)
        return add_layer_rows(new, decisions.rows)


def _constant_weight(rewriter, expr: relax.Expr) -> np.ndarray | None:
    """The [D, M] value of a constant or of a transposed constant."""
    if is_constant(expr):
        return array(expr)
    call = rewriter.producer(expr, _TRANSPOSE)
    if call is None or not is_constant(call.args[0]):
        return None
    axes = call.attrs.axes
    return array(call.args[0]).transpose(None if axes is None else [int(a) for a in axes])
