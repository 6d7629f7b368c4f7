"""RewriteConv2dToLUT: R.nn.conv2d with a constant weight and a codebook -> R.lut.conv2d."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

from tvm_ext import op as lut
from tvm_ext.transform._from_weights import CodebookLike, Decisions, lut_arguments
from tvm_ext.transform._rewrite import add_layer_rows, array, has_static_shape, is_constant, layer_name, rewrite_module

_CONV2D = tvm.ir.Op.get("relax.nn.conv2d")


@tvm.transform.module_pass(opt_level=0, name="RewriteConv2dToLUT")
class RewriteConv2dToLUT:
    """Rewrites NCHW/OIHW float32 convolutions of one group.

    codebooks: {layer name (the call's span): codebook}. A bias add behind it is left to FoldScaleIntoTable. Group and
    depthwise convolutions, layers without a codebook, and what does not fit stay float; why is recorded in the module.
    """

    def __init__(self, codebooks: Mapping[str, CodebookLike]) -> None:
        self.codebooks = codebooks

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        decisions = Decisions("conv2d", self.codebooks)

        def rewrite(_rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op != _CONV2D:
                return None
            name = layer_name(call, f"conv2d_{len(decisions.rows)}")
            reason = _unfit(call)
            if reason:
                decisions.keep_float(name, reason)
                return None
            weight = array(call.args[1])
            book = decisions.codebook(name, int(weight[0].size))
            if book is None:
                return None
            (centroids, table, scale, bias, inv_scale, score_bias), attrs = lut_arguments(
                book, weight.reshape(len(weight), -1)
            )
            return lut.conv2d(
                call.args[0], centroids, table, scale, bias, inv_scale, score_bias, layer=name,
                kernel_shape=weight.shape[2:], strides=_ints(call.attrs.strides), pads=_pads(call.attrs.padding),
                dilations=_ints(call.attrs.dilation), **attrs,
            )  # fmt: skip

        new = rewrite_module(mod, rewrite)
        return add_layer_rows(new, decisions.rows)


def _unfit(call: relax.Call) -> str:
    """Why a convolution cannot become tables, or ""."""
    attrs = call.attrs
    if not is_constant(call.args[1]):
        return "weight is not a constant"
    if not has_static_shape(call.args[0]):
        return "the shape of its input is not static"
    if int(attrs.groups) != 1:
        depth = int(call.args[1].ty.shape[1])
        kind = "depthwise" if depth == 1 else "grouped"
        return f"{kind} convolution ({int(attrs.groups)} groups)"
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return f"layout {attrs.data_layout}/{attrs.kernel_layout} is not NCHW/OIHW"
    if str(call.ty.dtype) != "float32":
        return f"computes in {call.ty.dtype}, not float32"
    return ""


def _ints(values) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def _pads(values) -> tuple[int, ...]:
    """TVM's padding (1, 2 or 4 values) as (top, left, bottom, right)."""
    pads = _ints(values)
    return pads * (4 // len(pads))
