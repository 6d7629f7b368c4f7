"""Shared by the passes: rewriting calls function by function, and looking at constants."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.tirx import PrimFunc

from tvm_ext.op.lookup_accumulate import OP as LOOKUP
from tvm_ext.op.quantized_conv2d import OP as QUANTIZED_CONV2D
from tvm_ext.op.quantized_dense import OP as QUANTIZED_DENSE

EPILOGUE_OPS = (LOOKUP, QUANTIZED_CONV2D, QUANTIZED_DENSE)
"""Ops that scale (argument 2), add a bias (3) and a residual (5), and activate, along the channels of `axis`."""
LAYERS_ATTR = "lut_layer_rows"
"""Module attribute: JSON list of what each layer became, written by the passes, read by reports."""


def map_kernels(mod: tvm.IRModule, *rewrites: tuple[type, Callable]) -> tvm.IRModule:
    """`mod` with parts of its PrimFuncs replaced: those of a type by what the function beside it makes of them."""
    result = mod.clone()
    for gv, func in mod.functions_items():
        if isinstance(func, PrimFunc):
            new = tvm_ffi.structural_map(func, list(rewrites))
            if not new.same_as(func):
                result[gv] = new
    return result


@mutator
class CallRewriter(PyExprMutator):
    """Applies ``rewrite(rewriter, call)`` to every call, innermost first; None leaves the call alone."""

    def __init__(self, mod: tvm.IRModule, rewrite: Callable) -> None:
        super().__init__(mod)
        self.rewrite = rewrite
        self.uses: Counter = Counter()
        self.memo: dict = {}  # for the rewrite to keep what holds within one function

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        new = self.rewrite(self, call)
        return call if new is None else new

    def producer(self, expr: relax.Expr, *ops: tvm.ir.Op, only_use: bool = False) -> relax.Call | None:
        """The call of one of `ops` that `expr` is, or is bound to, also as an item of a tuple made in place.

        With `only_use`, only if nothing else reads it.
        """
        while not isinstance(expr, relax.Call):
            if isinstance(expr, relax.Var):
                if only_use and self.uses[expr] > 1:
                    return None
                expr = self.lookup_binding(expr)
            elif isinstance(expr, relax.TupleGetItem):
                items = expr.tuple_value
                items = self.lookup_binding(items) if isinstance(items, relax.Var) else items
                expr = items.fields[expr.index] if isinstance(items, relax.Tuple) else None
            else:
                return None
        return expr if any(expr.op == op for op in ops) else None


def rewrite_module(mod: tvm.IRModule, rewrite: Callable) -> tvm.IRModule:
    """`mod` with `rewrite` applied to the calls of its Relax functions, unused bindings removed, attributes kept."""
    rewriter = CallRewriter(mod, rewrite)
    for gv, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewriter.uses, rewriter.memo = count_uses(func), {}
            new = relax.analysis.remove_all_unused(rewriter.visit_expr(func))
            rewriter.builder_.update_func(gv, new)
    result = rewriter.builder_.get()
    return result.with_attrs(mod.attrs) if mod.attrs else result


def count_uses(func: relax.Function) -> Counter:
    """How often each variable is read in `func`."""
    uses: Counter = Counter()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call):
            children = list(expr.args)
        elif isinstance(expr, relax.Tuple):
            children = list(expr.fields)
        elif isinstance(expr, relax.TupleGetItem):
            children = [expr.tuple_value]
        elif isinstance(expr, relax.SeqExpr):
            children = [expr.body] + [b.value for block in expr.blocks for b in block.bindings]
        else:
            return
        uses.update(c for c in children if isinstance(c, relax.Var))

    relax.analysis.post_order_visit(func, visit)
    return uses


def has_static_shape(expr: relax.Expr) -> bool:
    """Whether every dimension is known."""
    shape = getattr(expr.ty, "shape", None)
    return (
        shape is not None
        and isinstance(shape, relax.ShapeExpr)
        and all(isinstance(d, tvm.tirx.IntImm) for d in shape.values)
    )


def is_constant(expr: relax.Expr) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)


def array(expr: relax.Expr) -> np.ndarray:
    """The value of a constant."""
    return expr.value.numpy()


def with_args(call: relax.Call, args: list, **changed) -> relax.Call:
    """`call` of a lut op with other arguments and some attributes changed."""
    attrs = {str(k): call.attrs[k] for k in call.attrs.keys()}  # noqa: SIM118 (not a dict)
    attrs.update(changed)
    return relax.Call(call.op, args, tvm.ir.make_node("ir.DictAttrs", **attrs), call.ty_args, call.span)


def layer_name(call: relax.Call, fallback: str) -> str:
    """The name a front end gave the layer: the source name of the call's span."""
    span = call.span
    return str(span.source_name.name) if span is not None and span.source_name is not None else fallback


def layer_rows(mod: tvm.IRModule) -> list[dict]:
    """What the passes recorded about each layer so far."""
    return json.loads(str(mod.attrs[LAYERS_ATTR])) if mod.attrs is not None and LAYERS_ATTR in mod.attrs else []


def add_layer_rows(mod: tvm.IRModule, rows: list[dict]) -> tvm.IRModule:
    """`mod` with `rows` appended; a row replaces an earlier one of the same name."""
    merged = {row["name"]: row for row in layer_rows(mod)}
    for row in rows:
        merged[row["name"]] = merged.get(row["name"], {}) | row
    return mod.with_attr(LAYERS_ATTR, json.dumps(list(merged.values())))
