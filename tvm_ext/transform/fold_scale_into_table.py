"""FoldScaleIntoTable: per-channel multiply, add and batch norm behind a table read -> its table_scale and bias."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_ext.op._register import present
from tvm_ext.transform._rewrite import EPILOGUE_OPS, array, is_constant, rewrite_module, with_args

_ADD, _SUB, _MUL, _DIV = (tvm.ir.Op.get(f"relax.{n}") for n in ("add", "subtract", "multiply", "divide"))
_BATCH_NORM = tvm.ir.Op.get("relax.nn.batch_norm")


@tvm.transform.module_pass(opt_level=0, name="FoldScaleIntoTable")
class FoldScaleIntoTable:
    """``a * y + b`` with constants a and b, one value for all or one a channel, costs nothing in the epilogue.

    Only where the table read has no other reader and no residual or activation yet. Batch norm must use its running
    statistics (inference).
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op == _BATCH_NORM:
                return _fold_batch_norm(rewriter, call)
            return _fold_arithmetic(rewriter, call)

        return rewrite_module(mod, rewrite)


def _fold_arithmetic(rewriter, call: relax.Call) -> relax.Expr | None:
    if call.op not in (_ADD, _SUB, _MUL, _DIV):
        return None
    left, right = call.args
    if is_constant(left) and call.op in (_ADD, _MUL):
        left, right = right, left
    lookup = _foldable(rewriter, left)
    if lookup is None or not is_constant(right):
        return None
    value = _per_channel(array(right), lookup)
    if value is None or (call.op == _DIV and not value.all()):
        return None
    scale, bias = _scale_and_bias(lookup)
    if call.op == _ADD:
        bias = bias + value
    elif call.op == _SUB:
        bias = bias - value
    else:
        factor = value if call.op == _MUL else 1 / value
        scale, bias = scale * factor, bias * factor
    return _with_scale(lookup, scale, bias)


def _fold_batch_norm(rewriter, call: relax.Call) -> relax.Expr | None:
    lookup = _foldable(rewriter, call.args[0])
    attrs = call.attrs
    axis = int(attrs.axis)
    if lookup is None or axis % len(lookup.ty.shape) != int(lookup.attrs["axis"]) % len(lookup.ty.shape):
        return None
    if bool(attrs.training) or not all(is_constant(a) for a in call.args[1:]):
        return None
    gamma, beta, mean, var = (array(a).astype(np.float64) for a in call.args[1:])
    factor = 1 / np.sqrt(var + float(attrs.epsilon))
    factor = factor * gamma if bool(attrs.scale) else factor
    scale, bias = _scale_and_bias(lookup)
    bias = (bias - mean) * factor + (beta if bool(attrs.center) else 0)
    folded = rewriter.builder_.emit(_with_scale(lookup, scale * factor, bias))
    return relax.Tuple([folded, call.args[3], call.args[4]])  # the operator also returns its statistics


def _foldable(rewriter, expr: relax.Expr) -> relax.Call | None:
    lookup = rewriter.producer(expr, *EPILOGUE_OPS, only_use=True)
    if lookup is None or str(lookup.attrs["activation"]) or present(lookup.args[5]):
        return None
    return lookup if is_constant(lookup.args[2]) else None


def _per_channel(value: np.ndarray, lookup: relax.Call) -> np.ndarray | None:
    """`value` as float64 [M] if it broadcasts along the channels of the result only, else None."""
    rank, outputs = len(lookup.ty.shape), int(lookup.args[2].ty.shape[0])
    axis = int(lookup.attrs["axis"]) % rank
    if value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, outputs):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (outputs,))


def _scale_and_bias(lookup: relax.Call) -> tuple[np.ndarray, np.ndarray]:
    scale = array(lookup.args[2]).astype(np.float64)
    return scale, array(lookup.args[3]).astype(np.float64) if present(lookup.args[3]) else np.zeros_like(scale)


def _with_scale(lookup: relax.Call, scale: np.ndarray, bias: np.ndarray) -> relax.Call:
    args = list(lookup.args)
    args[2], args[3] = relax.const(scale.astype(np.float32)), relax.const(bias.astype(np.float32))
    return with_args(lookup, args)
