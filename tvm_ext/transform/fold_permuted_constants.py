"""FoldPermutedConstants: transposed and reshaped constants become constants, without compiling a kernel for each."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_ext.op._register import int_tuple
from tvm_ext.transform._rewrite import array, has_static_shape, is_constant, rewrite_module

_PERMUTE = tvm.ir.Op.get("relax.permute_dims")
_RESHAPES = tuple(tvm.ir.Op.get(f"relax.{name}") for name in ("reshape", "expand_dims", "squeeze"))


@tvm.transform.module_pass(opt_level=0, name="FoldPermutedConstants")
class FoldPermutedConstants:
    """TVM's FoldConstant gives the same values, but builds and runs a PrimFunc for every one."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite_module(mod, _rewrite)


def _rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
    if call.op != _PERMUTE and call.op not in _RESHAPES:
        return None
    value = rewriter.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
    if value is None or not is_constant(value) or not has_static_shape(call):
        return None
    if call.op == _PERMUTE:
        axes = call.attrs.axes
        return relax.const(np.ascontiguousarray(array(value).transpose(None if axes is None else int_tuple(axes))))
    return relax.const(array(value).reshape(int_tuple(call.ty.shape)))
