"""ReuseCodes: one encode serves every layer that searches the same tensor with the same codebooks."""

from __future__ import annotations

import hashlib

import tvm
from tvm import relax

from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.transform._rewrite import array, is_constant, rewrite_module


@tvm.transform.module_pass(opt_level=0, name="ReuseCodes")
class ReuseCodes:
    """Query, key and value projections that share input codebooks, for example, encode once.

    Constants are compared by value, since importers make one constant for each use.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op != ENCODE:
                return None
            key = (_identity(call.args[0]), *(_identity(a) for a in call.args[1:]), _search_key(call))
            if key not in rewriter.memo:
                rewriter.memo[key] = rewriter.builder_.emit(call)
            return rewriter.memo[key]

        # the builder leaves `codes = codes_of_another` aliases behind
        return relax.transform.CanonicalizeBindings()(rewrite_module(mod, rewrite))


def _identity(expr: relax.Expr):
    if not is_constant(expr):
        return expr if isinstance(expr, relax.Var) else None
    value = array(expr)
    return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()


def _search_key(call: relax.Call) -> str:
    """Everything but the layer's name."""
    return repr([(str(k), str(call.attrs[k])) for k in sorted(map(str, call.attrs.keys())) if k != "layer"])
