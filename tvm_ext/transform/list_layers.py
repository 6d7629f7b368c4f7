"""The conv and dense layers of a module by name, before anything is rewritten."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op.conv2d import OP as LUT_CONV2D
from tvm_ext.op.dense import OP as LUT_DENSE
from tvm_ext.transform._rewrite import layer_name

_FLOAT = (tvm.ir.Op.get("relax.nn.conv2d"), tvm.ir.Op.get("relax.matmul"))


def list_layers(mod: tvm.IRModule) -> dict[str, bool]:
    """Layer name -> whether it is a lut op (stored as a table), in the order of the model, without unnamed calls."""
    layers: dict[str, bool] = {}

    def visit(expr: relax.Expr) -> None:
        if not isinstance(expr, relax.Call):
            return
        annotated = expr.op in (LUT_DENSE, LUT_CONV2D)
        if annotated or expr.op in _FLOAT:
            name = str(expr.attrs["layer"]) if annotated else layer_name(expr, "")
            if name:
                layers[name] = annotated

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return layers
