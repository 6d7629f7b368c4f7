"""FuseLUTEpilogue: residual add and relu behind a table read become part of it."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax

from tvm_ext.op._register import present
from tvm_ext.transform._rewrite import EPILOGUE_OPS, is_constant, rewrite_module, with_args

_ADD, _RELU = tvm.ir.Op.get("relax.add"), tvm.ir.Op.get("relax.nn.relu")


@tvm.transform.module_pass(opt_level=0, name="FuseLUTEpilogue")
class FuseLUTEpilogue:
    """``relu(y + r)``, ``relu(y)`` and ``y + r`` of a table read y that nothing else reads; r has y's shape."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op == _RELU:
                lookup = rewriter.producer(call.args[0], *EPILOGUE_OPS, only_use=True)
                if lookup is not None and not str(lookup.attrs["activation"]):
                    return with_args(lookup, list(lookup.args), activation="relu")
            elif call.op == _ADD:
                return _fuse_residual(rewriter, *call.args)
            return None

        return rewrite_module(mod, rewrite)


def _fuse_residual(rewriter, left: relax.Expr, right: relax.Expr) -> relax.Call | None:
    # of two table reads the later one takes the other as its residual: it is usually the longer path
    for y, other in ((right, left), (left, right)):
        lookup = rewriter.producer(y, *EPILOGUE_OPS, only_use=True)
        if lookup is None or str(lookup.attrs["activation"]) or present(lookup.args[5]) or is_constant(other):
            continue
        if tvm_ffi.structural_equal(other.ty, lookup.ty):
            return with_args(lookup, [*lookup.args[:5], other, *lookup.args[6:]])
    return None
