"""R.lut.quantized_dense: a dense layer over integer levels and weights, with all per output behind it."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op._product import ARGUMENTS, check_operands, legalize_logical, legalize_packed
from tvm_ext.op._register import attributes, check, int_tuple, optional, register, static_shape

NAME = "lut.quantized_dense"


def quantized_dense(
    x: relax.Expr, weight: relax.Expr, scale: relax.Expr, bias: relax.Expr | None = None,
    start: relax.Expr | None = None, residual: relax.Expr | None = None,
    *, activation: str = "", layout: str = "", image: tuple[int, ...] = (), largest: int = 0, axis: int = -1,
    layer: str = "",
) -> relax.Call:  # fmt: skip
    """``act(scale[m] * (sum_d x[..., d] * weight[m, d] + start[m]) + bias[m] + residual)`` as float32.

    x : integer levels [..., D]. weight : int8 or int16 [M, D]. The result is [..., M].
    The rest as in `quantized_conv2d`; with a `layout`, `image` is [N, D] and the result [N, M]; `axis`, that of
    the outputs, is told for the passes.
    """
    attrs = attributes(
        activation=activation, axis=axis, layout=layout, image=tuple(image), largest=largest, layer=layer
    )  # fmt: skip
    return relax.Call(OP, [x, weight, scale, *(optional(a) for a in (bias, start, residual))], attrs)


def _infer(call: relax.Call, _bb: relax.BlockBuilder) -> relax.TensorType:
    x, weight = call.args[:2]
    image = int_tuple(call.attrs["image"]) or static_shape(x, NAME, "x")
    shape = static_shape(weight, NAME, "weight")
    check(bool(image) and len(shape) == 2, NAME, f"weight must be [M, D], got {list(shape)} for x {list(image)}")
    result = (*image[:-1], shape[0])
    check_operands(NAME, call, image[-1:], result, shape[0])
    return relax.TensorType(list(result), "float32")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return (legalize_packed if str(call.attrs["layout"]) else legalize_logical)(bb, call, NAME)


OP: tvm.ir.Op = register("quantized_dense", ARGUMENTS, _infer, _legalize, quantized_dense)
