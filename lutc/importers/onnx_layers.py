"""Conv, Gemm and MatMul to Relax with the node's name kept as the call's span, and constants kept constant.

TVM's own converters give the same values, but drop the name (by which layers are chosen) and hide the bias and the
transposed weight behind calls that passes would have to look through.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from lutc.importers.padding import resolve_pads
from lutc.importers.relax_types import static_shape

Inputs = Sequence[relax.Expr | None]


def convert_layer(bb: relax.BlockBuilder, op_type: str, inputs: Inputs, attrs: Mapping[str, Any]) -> relax.Expr | None:
    """The Relax value of the node, or None for a node that is left to TVM's converter."""
    name = attrs["tvm_custom"]["name"]
    if op_type == "Conv":
        return _conv(bb, inputs, attrs, name)
    if op_type == "Gemm":
        return _gemm(bb, inputs, attrs, name)
    if op_type == "MatMul":
        return bb.emit(named(relax.op.matmul(inputs[0], inputs[1]), name))
    if op_type == "Clip" and inputs[0] is not None and inputs[0].ty.dtype == "float32":
        return _clip(bb, inputs)
    if op_type == "Gather":
        return _gather(bb, inputs, int(attrs.get("axis", 0)))
    if op_type == "Sum":  # TVM stacks the inputs and sums, which costs copies and stops its layout pass
        return functools.reduce(lambda x, y: bb.emit(relax.op.add(x, y)), (x for x in inputs if x is not None))
    return None


def named(call: relax.Call, name: str) -> relax.Call:
    """The same call with the layer's name as its span."""
    span = tvm.ir.Span(tvm.ir.SourceName(name), 0, 0, 0, 0)
    return relax.Call(call.op, list(call.args), call.attrs, call.ty_args, span)


def constant_of(bb: relax.BlockBuilder, expr: relax.Expr | None) -> np.ndarray | None:
    """The value of an expression that is a constant, or a variable bound to one."""
    if isinstance(expr, relax.Var):
        expr = bb.lookup_binding(expr)
    return expr.value.numpy() if expr is not None and isinstance(expr, tvm.ir.GenericConst) else None


def _conv(bb: relax.BlockBuilder, inputs: Inputs, attrs: Mapping[str, Any], name: str) -> relax.Expr | None:
    data, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    size, kernel = static_shape(data), static_shape(weight)
    if size is None or kernel is None or len(size) != 4:
        return None
    strides, dilations = (list(attrs.get(key, (1, 1))) for key in ("strides", "dilations"))
    mode = attrs.get("auto_pad", b"NOTSET").decode()
    pads = attrs.get("pads", (0, 0, 0, 0)) if mode == "NOTSET" else mode
    call = relax.op.nn.conv2d(
        data,
        weight,
        strides=strides,
        padding=list(resolve_pads(pads, size[2:], kernel[2:], strides, dilations)),
        dilation=dilations,
        groups=int(attrs.get("group", 1)),
    )
    out = bb.emit(named(call, name))
    if bias is None:
        return out
    value = constant_of(bb, bias)
    shape = [1, kernel[0], 1, 1]
    shaped = relax.op.reshape(bias, shape) if value is None else relax.const(value.reshape(shape))
    return bb.emit(relax.op.add(out, shaped))


def _gemm(bb: relax.BlockBuilder, inputs: Inputs, attrs: Mapping[str, Any], name: str) -> relax.Expr:
    """alpha * A' B' + beta * C, with alpha and beta folded into constant B and C."""
    a, b = inputs[0], inputs[1]
    c = inputs[2] if len(inputs) > 2 else None
    if attrs.get("transA", 0):
        a = bb.emit(relax.op.permute_dims(a, [1, 0]))
    b = _scaled(bb, b, float(attrs.get("alpha", 1.0)), transpose=bool(attrs.get("transB", 0)))
    out = bb.emit(named(relax.op.matmul(a, b), name))
    beta = float(attrs.get("beta", 1.0))
    return out if c is None or beta == 0 else bb.emit(relax.op.add(out, _scaled(bb, c, beta, transpose=False)))


def _gather(bb: relax.BlockBuilder, inputs: Inputs, axis: int) -> relax.Expr | None:
    """Rows of a float table, as embeddings are; an index outside of it takes the nearest row, not foreign memory."""
    data, index = inputs[0], inputs[1]
    if data is None or index is None or not all(isinstance(e.ty, relax.TensorType) for e in (data, index)):
        return None
    size = static_shape(data)
    if size is None or data.ty.dtype != "float32" or constant_of(bb, index) is not None:
        return None
    zero, count = (relax.const(value, str(index.ty.dtype)) for value in (0, size[axis]))
    behind = bb.emit(relax.op.add(index, count))
    index = bb.emit(relax.op.where(bb.emit(relax.op.less(index, zero)), behind, index))
    return bb.emit(relax.op.take(data, index, axis=axis % len(size), mode="clip"))


def _clip(bb: relax.BlockBuilder, inputs: Inputs) -> relax.Expr | None:
    """Two calls that passes know; the value comes second, so that NaN stays: no comparison with it is true."""
    limits = [constant_of(bb, limit) for limit in (*inputs[1:], None, None)[:2]]
    if any(limit is None and given is not None for limit, given in zip(limits, inputs[1:], strict=False)):
        return None
    value = inputs[0]
    for limit, choose in zip(limits, (relax.op.maximum, relax.op.minimum), strict=True):
        if limit is not None:
            value = bb.emit(choose(relax.const(limit.reshape(()).astype("float32")), value))
    return value


def _scaled(bb: relax.BlockBuilder, expr: relax.Expr, factor: float, *, transpose: bool) -> relax.Expr:
    value = constant_of(bb, expr)
    if value is not None:
        value = value.T if transpose else value
        return relax.const(np.ascontiguousarray(value if factor == 1 else value * value.dtype.type(factor)))
    if transpose:
        expr = bb.emit(relax.op.permute_dims(expr, [1, 0]))
    return expr if factor == 1 else bb.emit(relax.op.multiply(expr, relax.const(factor, expr.ty.dtype.dtype)))
