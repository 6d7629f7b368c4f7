"""WholeVectors: results of a table read leave in whole vectors, whatever the size of an image is."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from tvm_ext.schedule.lookup import POSITIONS
from tvm_ext.transform._rewrite import map_kernels


@tvm.transform.module_pass(opt_level=0, name="WholeVectors")
class WholeVectors:
    """Vectorizes every loop over lanes that is annotated with the number of positions (see `schedule.lookup`).

    A vector that ends behind the last position, of which an image has one, becomes smaller ones and single values. Left
    to LLVM, the condition of each lane makes it gather what is the same for all of them.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return map_kernels(mod, (tirx.For, _rewrite))


def _rewrite(loop: tirx.For) -> tirx.Stmt:
    if POSITIONS not in loop.annotations:
        return loop
    positions, lanes, realize = int(loop.annotations[POSITIONS]), int(loop.extent), loop.body
    start = _at(realize.iter_values[-1], loop.loop_var, tirx.const(0, loop.loop_var.ty.dtype))
    pieces, at = [], 0
    while at < positions % lanes:
        size = 1 << ((positions % lanes - at).bit_length() - 1)
        pieces.append(_vector(realize, loop.loop_var, at, size))
        at += size
    whole = _vector(realize, loop.loop_var, 0, lanes)
    part = tirx.IfThenElse(start < positions, tirx.SeqStmt(pieces) if len(pieces) > 1 else pieces[0], None)
    return tirx.IfThenElse(start + lanes <= positions, whole, part)


def _vector(realize: s_tir.SBlockRealize, lane: tirx.Var, at: int, size: int) -> tirx.Stmt:
    """The block for `size` lanes from number `at` on, without the conditions on lanes."""
    own = tirx.Var(lane.name, lane.ty.dtype)
    values = [
        _at(value, lane, own + at if size > 1 else tirx.const(at, lane.ty.dtype)) for value in realize.iter_values
    ]
    block = s_tir.SBlockRealize(values, _without(realize.predicate, lane), realize.block)
    return tirx.For(own, 0, size, tirx.ForKind.VECTORIZED, block) if size > 1 else block


def _without(condition: tirx.Expr, lane: tirx.Var) -> tirx.Expr:
    """The parts of a condition that are the same for all lanes."""
    if isinstance(condition, tirx.And):
        return tirx.And(_without(condition.a, lane), _without(condition.b, lane))
    used: list[tirx.Var] = []
    tvm_ffi.structural_walk(condition, (tirx.Var, used.append))
    return tirx.const(True, "bool") if any(var.same_as(lane) for var in used) else condition


def _at(expr: tirx.Expr, var: tirx.Var, value: tirx.Expr) -> tirx.Expr:
    return tvm_ffi.structural_map(expr, (tirx.Var, lambda v: value if v.same_as(var) else v))
