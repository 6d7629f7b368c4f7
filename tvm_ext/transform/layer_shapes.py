"""How large each conv and dense layer of a module is, before anything is rewritten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax

from tvm_ext.op.conv2d import OP as LUT_CONV2D
from tvm_ext.op.dense import OP as LUT_DENSE
from tvm_ext.transform._rewrite import has_static_shape, layer_name

_CONV2D, _MATMUL = tvm.ir.Op.get("relax.nn.conv2d"), tvm.ir.Op.get("relax.matmul")


@dataclass(frozen=True)
class LayerSize:
    """N rows (positions) of D values each, and M outputs.

    taps : elements of a convolution's window; 1 for dense layers.
    inputs : values that the layer reads.
    centroids, subvector_len, num_codebooks, encode_dtype : of a layer that is stored as a table, else None, 0, 0, "".
    """

    name: str
    op: str
    rows: int
    depth: int
    outputs: int
    taps: int
    inputs: int
    groups: int = 1
    centroids: int | None = None
    subvector_len: int = 0
    num_codebooks: int = 0
    encode_dtype: str = ""


def layer_shapes(mod: tvm.IRModule) -> list[LayerSize]:
    """The named conv and dense layers with fixed shapes, in the order of the model; products of two inputs are none."""
    found: dict[str, LayerSize] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and has_static_shape(expr):
            size = _size(expr)
            if size is not None and size.name:
                found.setdefault(size.name, size)

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return list(found.values())


def _size(call: relax.Call) -> LayerSize | None:
    if call.op not in (_CONV2D, _MATMUL, LUT_CONV2D, LUT_DENSE):
        return None
    x, y = _shape(call.args[0]), _shape(call)
    inputs = math.prod(x)
    if call.op == _MATMUL:
        weight = call.args[1]
        if len(_shape(weight)) != 2:
            return None
        return LayerSize(layer_name(call, ""), "dense", inputs // x[-1], x[-1], y[-1], 1, inputs)
    if call.op == _CONV2D:
        outputs, depth, *kernel = _shape(call.args[1])
        rows, taps = math.prod(y) // outputs, math.prod(kernel)
        groups = int(call.attrs.groups)
        return LayerSize(layer_name(call, ""), "conv2d", rows, depth * taps, outputs, taps, inputs, groups)
    codebooks, centroids, length = _codebook(call)
    conv = call.op == LUT_CONV2D
    outputs = y[1] if conv else y[-1]
    taps = math.prod(int(k) for k in call.attrs["kernel_shape"]) if conv else 1
    return LayerSize(
        str(call.attrs["layer"]), "conv2d" if conv else "dense", math.prod(y) // outputs,
        (x[1] if conv else x[-1]) * taps, outputs, taps, inputs, 1, centroids, length, codebooks,
        str(call.attrs["encode_dtype"]),
    )  # fmt: skip


def _codebook(call: relax.Call) -> tuple[int, int, int]:
    """C, K and V of a stored layer."""
    centroids, table = _shape(call.args[1]), _shape(call.args[2])
    return table[0], table[1], centroids[2] if len(centroids) == 3 else 0


def _shape(expr: relax.Expr) -> list[int]:
    return [int(d) for d in expr.ty.shape]
