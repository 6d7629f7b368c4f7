"""FuseLUTEpilogue: residual add, relu and relu6 behind a table read become part of it."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, tirx

from tvm_ext.op._register import present
from tvm_ext.transform._rewrite import EPILOGUE_OPS, array, is_constant, rewrite_module, with_args

_ADD, _RELU = tvm.ir.Op.get("relax.add"), tvm.ir.Op.get("relax.nn.relu")
_CLIP, _MAX, _MIN = (tvm.ir.Op.get(f"relax.{name}") for name in ("clip", "maximum", "minimum"))


@tvm.transform.module_pass(opt_level=0, name="FuseLUTEpilogue")
class FuseLUTEpilogue:
    """``relu(y + r)``, ``relu(y)`` and ``y + r`` of a table read y that nothing else reads; r has y's shape.

    relu is also ``maximum(y, 0)``; it becomes relu6 by ``minimum(relu(y), 6)`` or ``clip(y, 0, 6)``.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op == _ADD:
                return _fuse_residual(rewriter, *call.args)
            for y, before, after in _activations(call):
                lookup = rewriter.producer(y, *EPILOGUE_OPS, only_use=True)
                if lookup is not None and str(lookup.attrs["activation"]) == before:
                    return with_args(lookup, list(lookup.args), activation=after)
            return None

        return rewrite_module(mod, rewrite)


def _activations(call: relax.Call) -> list[tuple[relax.Expr, str, str]]:
    """What `call` may be an activation of, with the one that must be there before and the one that is there then."""
    if call.op == _RELU:
        return [(call.args[0], "", "relu")]
    if call.op == _CLIP:
        bounds = [float(bound.value) for bound in call.args[1:] if isinstance(bound, (tirx.IntImm, tirx.FloatImm))]
        return [(call.args[0], before, "relu6") for before in ("", "relu") if bounds == [0, 6]]
    if call.op in (_MAX, _MIN):
        bound, before, after = (0, "", "relu") if call.op == _MAX else (6, "relu", "relu6")
        pairs = (call.args, [*call.args][::-1])
        return [(y, before, after) for y, other in pairs if _is_scalar(other, bound)]
    return []


def _is_scalar(expr: relax.Expr, value: float) -> bool:
    """Whether `expr` is a constant without dimensions that equals `value`."""
    return is_constant(expr) and array(expr).ndim == 0 and float(array(expr)) == value


def _fuse_residual(rewriter, left: relax.Expr, right: relax.Expr) -> relax.Call | None:
    # of two table reads the later one takes the other as its residual: it is usually the longer path
    for y, other in ((right, left), (left, right)):
        lookup = rewriter.producer(y, *EPILOGUE_OPS, only_use=True)
        if lookup is None or str(lookup.attrs["activation"]) or present(lookup.args[5]) or is_constant(other):
            continue
        if tvm_ffi.structural_equal(other.ty, lookup.ty):
            return with_args(lookup, [*lookup.args[:5], other, *lookup.args[6:]])
    return None
