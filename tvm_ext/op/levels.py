"""R.lut.levels: activations as integer levels, what quantized_dense and quantized_conv2d read."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te

from tvm_ext.compute.kernel import call_kernel, emit_kernel
from tvm_ext.compute.level_vectors import table_constants
from tvm_ext.compute.levels_input import LevelsInput
from tvm_ext.compute.levels_kernel import levels_kernel
from tvm_ext.compute.product import Plane
from tvm_ext.compute.staircase import plan_staircase
from tvm_ext.op._register import attributes, check, dtype_of, int_tuple, register, static_shape
from tvm_ext.op._search import check_tensor
from tvm_ext.tensor_intrin import get_isa

NAME = "lut.levels"
LEVEL_DTYPES = ("uint8", "int8", "int16")


def levels(
    x: relax.Expr, thresholds: relax.Expr, values: relax.Expr,
    *, layout: str = "", dtype: str = "", plane: tuple[int, ...] = (), origin: tuple[int, int] = (0, 0),
    channels_last: bool = False, zero_point: int = 0, scale: float = 0.0, layer: str = "",
) -> relax.Call:  # fmt: skip
    """``values[#{k : thresholds[k] <= x}]``.

    Parameters
    ----------
    x : float32, any shape; with a `layout` [B, C, H, W] or, `channels_last`, [B, H, W, C] or [N, D].
    thresholds, values : float32 [T], and uint8, int8 or int16 [T + 1].
    layout : "" gives the shape of x and the dtype of the values. The name of an ISA gives its kernel, which writes a
        plane of this shape [B, height, width, channels] and `dtype` of ``value - zero_point``; x begins at `origin`,
        around it is zero (made by PackQuantized; then thresholds and values must be constants).
    scale : the largest float level, where it is known: it may tell how inputs are scaled.
    """
    attrs = attributes(
        layout=layout, dtype=dtype, plane=tuple(plane), origin=tuple(origin), channels_last=channels_last,
        zero_point=zero_point, scale=float(scale), layer=layer,
    )  # fmt: skip
    return relax.Call(OP, [x, thresholds, values], attrs)


def _infer(call: relax.Call, _bb: relax.BlockBuilder) -> relax.TensorType:
    x, thresholds, values = call.args
    check(dtype_of(x) == "float32", NAME, f"x must be float32, got {dtype_of(x)}")
    count = static_shape(thresholds, NAME, "thresholds")
    check(len(count) == 1, NAME, f"thresholds must be [T], got shape {list(count)}")
    check(dtype_of(values) in LEVEL_DTYPES, NAME, f"values must be one of {LEVEL_DTYPES}, got {dtype_of(values)}")
    check_tensor(NAME, "values", values, (count[0] + 1,), dtype_of(values))
    if not str(call.attrs["layout"]):
        return relax.TensorType(list(static_shape(x, NAME, "x")), dtype_of(values))
    return relax.TensorType(list(int_tuple(call.attrs["plane"])), str(call.attrs["dtype"]))


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs = call.attrs
    if str(attrs["layout"]):
        return _packed(bb, call)
    x, thresholds, values = call.args
    count = int(thresholds.ty.shape[0])

    def compute(x, thresholds, values) -> te.Tensor:
        if count == 0:
            return te.compute(x.shape, lambda *_: values[0], name="lut_levels")
        k = te.reduce_axis((0, count), "k")
        codes = te.compute(
            x.shape, lambda *i: te.sum((x[i] >= thresholds[k]).astype("int32"), axis=k), name="lut_codes"
        )
        return te.compute(x.shape, lambda *i: values[codes[i]], name="lut_levels")

    info = {"kind": "oracle", "layer": str(attrs["layer"])}
    return emit_kernel(bb, compute, [x, thresholds if count else None, values], call.ty, "lut_levels", info)


def _packed(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, thresholds, values = call.args
    attrs, shape = call.attrs, static_shape(call.args[0], NAME, "x")
    last, zero_point, dtype = bool(int(attrs["channels_last"])), int(attrs["zero_point"]), str(attrs["dtype"])
    matrix = len(shape) == 2
    if matrix:
        shape = (1, 1, *shape)
    b, c, h, w = (shape[0], shape[3], shape[1], shape[2]) if last else shape
    product = get_isa(str(attrs["layout"])).product
    plan = plan_staircase(
        thresholds.value.numpy(), values.value.numpy().astype(np.int64) - zero_point, fused=product.fused,
        tables=product.table_entries if dtype != "int16" else 0, cells=32 if product.permute_words else 0,
        scale=float(attrs["scale"]) or None, truncates=product.truncates and dtype != "int16",
    )  # fmt: skip
    source = LevelsInput(b, c, h, w, *int_tuple(attrs["origin"]), channels_last=last, is_matrix=matrix)
    kernel = levels_kernel(plan, source, Plane(*int_tuple(attrs["plane"])), dtype, -zero_point, product)
    constants = [relax.const(np.ascontiguousarray(value)) for value in table_constants(plan).values()]
    info = {"kind": "levels", "method": plan.method, "layer": str(attrs["layer"])}
    return call_kernel(bb, kernel.with_attr("tirx.is_scheduled", True), [x, *constants], call.ty, "lut_levels", info)


OP: tvm.ir.Op = register("levels", ["x", "thresholds", "values"], _infer, _legalize, levels)
