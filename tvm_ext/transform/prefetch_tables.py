"""PrefetchTables: while a layer searches its codes, the table that is read at them next comes into the second cache."""

from __future__ import annotations

import math
from collections import Counter

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GenericConst, GlobalVar
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import kernel_of
from tvm_ext.schedule.encode import NS_PER_PRODUCT, PREFETCH

_CALL_TIR = tvm.ir.Op.get("relax.call_tir")
_READ, _KEEP_IN_L2, _DATA = 0, 2, 1
"""Arguments of llvm.prefetch."""
_LINE = 64
"""Bytes of a cache line."""
_STAYS = 1 << 20
"""Bytes of all tables of a model up to which they stay in the second cache from run to run."""
_LEAST, _MOST = 1 << 17, 3 << 18
"""Bytes of a table from which on fetching it pays, and that the second cache holds beside the codes."""
_BYTES_PER_NS = 24
"""Of what one core reads from memory or the third cache: what comes during a search."""


@tvm.transform.module_pass(opt_level=0, name="PrefetchTables")
class PrefetchTables:
    """Scheduled searches (see `schedule.encode`) get the table of their reader as a further argument, and fetch it.

    A search is bound by arithmetic, and the read of a large table for few positions by memory: together they take
    little more than the longer of both. As much of a table is fetched as comes in the time of the search.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        tables, result = _tables(mod), mod.clone()
        searches: dict[str, tuple[GlobalVar, GenericConst]] = {}
        for gv, func in mod.functions_items():
            if not isinstance(func, PrimFunc) or kernel_of(func, "encode_tiled") is None:
                continue
            table = tables.get(gv.name_hint)
            lines = 0 if table is None else _lines(func, table)
            if lines:
                new = _with_prefetch(func, table, lines)
                own = GlobalVar(gv.name_hint)  # the type of the other has fewer parameters
                relax.expr._update_type(own, new.ty)
                searches[gv.name_hint] = own, table
                del result[gv]
                result[own] = new
            else:
                result[gv] = _rewritten(func, func.params, None)
        for gv, func in mod.functions_items() if searches else ():
            if isinstance(func, relax.Function):
                result[gv] = tvm_ffi.structural_map(func, (relax.Call, lambda call: _with_table(call, searches)))
        return result


def _tables(mod: tvm.IRModule) -> dict[str, GenericConst]:
    """Name of a search that is called once -> the first table that is read at its codes; large ones of large models."""
    searches: dict[relax.Var, str] = {}
    found: dict[str, GenericConst] = {}
    calls: Counter = Counter()
    total = 0
    for _, func in mod.functions_items():
        blocks = func.body.blocks if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr) else ()
        for binding in (binding for block in blocks for binding in block.bindings):
            call = binding.value
            if not isinstance(call, relax.Call) or call.op != _CALL_TIR:
                continue
            kernel, args = mod[call.args[0]], call.args[1].fields
            if kernel_of(kernel, "encode_tiled") is not None:
                searches[binding.var] = call.args[0].name_hint
                calls[call.args[0].name_hint] += 1
            elif kernel_of(kernel, "lookup_shuffle") is not None and isinstance(args[1], GenericConst):
                total += _size(args[1])
                if args[0] in searches:
                    found.setdefault(searches[args[0]], args[1])
    return {n: table for n, table in found.items() if total > _STAYS and calls[n] == 1 and _size(table) >= _LEAST}


def _size(table: GenericConst) -> int:
    return math.prod(int(d) for d in table.ty.shape)


def _lines(func: PrimFunc, table: GenericConst) -> int:
    """Cache lines of the table that come during a search."""
    centroids, codes = ([int(d) for d in func.params[i].ty.shape] for i in (1, -1))
    products = math.prod(centroids) * (math.prod(codes) // centroids[0])
    return int(min(_size(table), _MOST, products * NS_PER_PRODUCT * _BYTES_PER_NS)) // _LINE


def _with_table(call: relax.Call, searches: dict[str, tuple[GlobalVar, GenericConst]]) -> relax.Call:
    if call.op != _CALL_TIR or call.args[0].name_hint not in searches:
        return call
    own, table = searches[call.args[0].name_hint]
    args = [own, relax.Tuple([*call.args[1].fields, table]), *call.args[2:]]
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)


def _with_prefetch(func: PrimFunc, table: GenericConst, lines: int) -> PrimFunc:
    """`func` with the table before its result, and an even share of `lines` fetched in each turn of the marked loop."""
    *inputs, result = func.params
    shape = [int(d) for d in table.ty.shape]
    buffer = tirx.decl_buffer(shape, "int8", "table")
    turn, turns = tirx.const(0, "int64"), 1
    for loop in _loops_to_mark(func.body):
        turn, turns = turn * loop.extent + loop.loop_var.astype("int64"), turns * int(loop.extent)
    share = -(-lines // turns)
    line = tirx.Var("line", "int64")
    index = [tirx.const(0, "int64")] * (len(shape) - 1)
    address = tirx.address_of(tirx.BufferLoad(buffer, [*index, (turn * share + line) * _LINE]))
    fetch = tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, _READ, _KEEP_IN_L2, _DATA))
    fetch = tirx.For(line, 0, share, tirx.ForKind.UNROLLED, fetch)
    if turns > lines // share:
        fetch = tirx.IfThenElse(turn < lines // share, fetch, None)
    return _rewritten(func, [*inputs, buffer, result], fetch)


def _rewritten(func: PrimFunc, params: list, fetch: tirx.Stmt | None) -> PrimFunc:
    """`func` with `fetch` at the start of the marked loop's body, and without the mark."""

    def unmarked(loop: tirx.For) -> tirx.For:
        if PREFETCH not in loop.annotations:
            return loop
        annotations = {k: v for k, v in loop.annotations.items() if k != PREFETCH}
        body = loop.body if fetch is None else tirx.SeqStmt([fetch, loop.body])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, annotations)

    return PrimFunc(params, tvm_ffi.structural_map(func.body, (tirx.For, unmarked)), func.ret_type, func.attrs)


def _loops_to_mark(stmt) -> list[tirx.For]:
    """The loops around the marked one and itself, outermost first; none if it is not in `stmt`."""
    if isinstance(stmt, tirx.For):
        inner = [] if PREFETCH in stmt.annotations else _loops_to_mark(stmt.body)
        return [stmt, *inner] if inner or PREFETCH in stmt.annotations else []
    if isinstance(stmt, tirx.SeqStmt):
        return next((loops for part in stmt.seq if (loops := _loops_to_mark(part))), [])
    inside = getattr(stmt, "block", stmt)  # of what realizes a block
    return _loops_to_mark(inside.body) if hasattr(inside, "body") else []
