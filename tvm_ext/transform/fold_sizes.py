"""FoldSizes: index arithmetic on a module's shapes becomes constants."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_ext.transform._rewrite import array, has_static_shape, is_constant, rewrite_module

_TO_TENSOR, _SHAPE_OF = (tvm.ir.Op.get(f"relax.{name}") for name in ("shape_to_tensor", "shape_of"))
_ARITHMETIC = {"relax.add": np.add, "relax.less": np.less, "relax.take": np.take, "relax.where": np.where}
"""Of scalars and vectors: what ONNX's Gather becomes."""


@tvm.transform.module_pass(opt_level=0, name="FoldSizes")
class FoldSizes:
    """What importers leave of it; after this, the graphs of two sizes of a model can be compared."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite_module(mod, _folded)


def _folded(rewriter, call: relax.Call) -> relax.Expr | None:
    made = rewriter.producer(call.args[0], _SHAPE_OF) if call.op == _TO_TENSOR else None
    if made is not None and has_static_shape(made.args[0]):
        return relax.const(np.array([int(d) for d in made.args[0].ty.shape], "int64"), "int64")
    bound = [rewriter.lookup_binding(arg) if isinstance(arg, relax.Var) else None for arg in call.args]
    args = [a if b is None or not is_constant(b) else b for a, b in zip(call.args, bound, strict=True)]
    name = str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""
    if name in _ARITHMETIC and all(is_constant(arg) and len(arg.ty.shape) <= 1 for arg in args):
        value = _ARITHMETIC[name](*map(array, args))
        return relax.const(value, str(value.dtype))
    if not any(b is not None and is_constant(b) for b in bound):
        return None
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
