"""R.lut.quantize: a scalar quantizer, float to float, as a model holds it (docs/ops/LUTQuantize_v1.md)."""

from __future__ import annotations

import tvm
from tvm import relax, te

from tvm_ext.compute.kernel import emit_kernel
from tvm_ext.op._register import attributes, check, dtype_of, register, static_shape

NAME = "lut.quantize"


def quantize(
    x: relax.Expr, thresholds: relax.Expr, levels: relax.Expr, *, axis: int = 1, layer: str = ""
) -> relax.Call:
    """``levels[#{k : thresholds[k] <= x}]``, of the shape of x.

    Parameters
    ----------
    x : float32 of any shape.
    thresholds, levels : float32 [T] and [T + 1], or [C, T] and [C, T + 1], one row for each index of `axis` of x.
    layer : qualified name, for reports.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    return relax.Call(OP, [x, thresholds, levels], attributes(axis=axis, layer=layer))


def _infer(call: relax.Call, _bb: relax.BlockBuilder) -> relax.TensorType:
    x, thresholds, levels = call.args
    for name, expr in (("x", x), ("thresholds", thresholds), ("levels", levels)):
        check(dtype_of(expr) == "float32", NAME, f"{name} must be float32, got {dtype_of(expr)}")
    steps, values = static_shape(thresholds, NAME, "thresholds"), static_shape(levels, NAME, "levels")
    check(len(steps) in (1, 2) and values == (*steps[:-1], steps[-1] + 1), NAME,
          f"levels must be [T + 1] or [C, T + 1] for thresholds {list(steps)}, got shape {list(values)}")  # fmt: skip
    if len(steps) == 2:
        shape, axis = static_shape(x, NAME, "x"), int(call.attrs["axis"])
        check(0 <= axis < len(shape) and shape[axis] == steps[0], NAME,
              f"{steps[0]} rows of thresholds do not fit axis {axis} of shape {list(shape)}")  # fmt: skip
    return x.ty


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    axis, count = int(call.attrs["axis"]), int(call.args[2].ty.shape[-1]) - 1
    per_channel = len(call.args[2].ty.shape) == 2

    def compute(x, thresholds, levels) -> te.Tensor:
        def row(table, index):
            return lambda k: table[index[axis], k] if per_channel else table[k]

        if count == 0:
            return te.compute(x.shape, lambda *i: row(levels, i)(0), name="lut_levels")
        k = te.reduce_axis((0, count), "k")
        codes = te.compute(
            x.shape, lambda *i: te.sum((x[i] >= row(thresholds, i)(k)).astype("int32"), axis=k), name="lut_codes"
        )
        return te.compute(x.shape, lambda *i: row(levels, i)(codes[i]), name="lut_levels")

    args = list(call.args)
    if count == 0:  # a tensor without elements is no argument of a kernel
        args[1] = None
    info = {"kind": "oracle", "layer": str(call.attrs["layer"])}
    return emit_kernel(bb, compute, args, call.ty, "lut_quantize", info)


OP: tvm.ir.Op = register("quantize", ["x", "thresholds", "levels"], _infer, _legalize, quantize)
