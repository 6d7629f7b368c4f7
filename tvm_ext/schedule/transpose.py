"""Schedule of transposes: tiles are turned over in vectors, by shuffles."""

from __future__ import annotations

import math

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Range, TensorLoad, Var
from tvm.s_tir.dlight import ScheduleRule
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.sym.analyzer import Analyzer
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_ext.schedule.base import child_blocks, is_reduction
from tvm_ext.schedule.elementwise import PARALLEL_FROM
from tvm_ext.target import vector_unit
from tvm_ext.tensor_intrin.transpose import transposed

_SIDES = (16, 8, 4)


class Transpose(ScheduleRule):
    """Takes PrimFuncs that copy one float32 tensor whose lines run along another axis of the result than its last.

    The kernel is written anew, since tiles that meet the end of a line overlap the tile before: all are whole vectors.
    """

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        sch = s_tir.Schedule(func)
        blocks = child_blocks(sch)
        if len(func.params) != 2 or not blocks or any(is_reduction(sch, block) for block in blocks):
            return None
        for block in blocks[:-1]:
            sch.compute_inline(block)
        found = _lines(sch.get(blocks[-1]))
        if found is None:
            return None
        variables, indices, across = found
        source, shape = (tuple(int(d) for d in param.ty.shape) for param in func.params)
        lanes = vector_unit(target).lanes
        least = min(shape[across], shape[-1])
        side = next((side for side in _SIDES if side <= lanes and side <= least), 0)
        if not side:
            return None
        made = _kernel(source, shape, variables, indices, across, side)
        return s_tir.Schedule(made.with_attrs(dict(func.attrs.items())))


def _lines(block: s_tir.SBlock) -> tuple[list[Var], list, int] | None:
    """(the block's variables, indices of what it copies, the variable along the source's lines), if it transposes."""
    body, own = block.body, [var.var for var in block.iter_vars]
    if not isinstance(body, tirx.BufferStore) or not isinstance(body.value, TensorLoad):
        return None
    if str(body.value.ty.dtype) != "float32" or len(body.indices) != len(own) or len(own) < 2:
        return None
    if not all(index.same_as(var) for index, var in zip(body.indices, own, strict=True)):
        return None
    analyzer = Analyzer()
    for var in block.iter_vars:
        analyzer.bind(var.var, Range(var.dom.min, var.dom.extent))
    indices = [analyzer.simplify(index) for index in body.value.indices]
    users = [_variables(index) for index in indices]
    if not users or not all(map(_is_linear, indices)):
        return None
    last, in_lines = own[-1], users[-1]
    if any(var.same_as(last) for var in in_lines) or not any(v.same_as(last) for user in users for v in user):
        return None
    for at, var in enumerate(own[:-1]):
        if sum(any(v.same_as(var) for v in user) for user in users) != 1 or not any(v.same_as(var) for v in in_lines):
            continue
        zero, one = tirx.const(0, var.ty.dtype), tirx.const(1, var.ty.dtype)
        step = _put(indices[-1], {var: one}) - _put(indices[-1], {var: zero})
        if int(block.iter_vars[at].dom.extent) > 1 and str(analyzer.simplify(step)) in ("1", "T.int64(1)"):
            return own, indices, at
    return None


def _variables(expr: tirx.Expr) -> list[Var]:
    found: list[Var] = []
    tvm_ffi.structural_walk(expr, (Var, found.append))
    return found


def _is_linear(expr: tirx.Expr) -> bool:
    if isinstance(expr, (tirx.Add, tirx.Sub)):
        return _is_linear(expr.a) and _is_linear(expr.b)
    if isinstance(expr, tirx.Mul):
        return isinstance(expr.b, tirx.IntImm) and _is_linear(expr.a)
    return isinstance(expr, (Var, tirx.IntImm))


def _put(expr, values: dict):
    """`expr` with other values of its variables."""
    pairs = values.items()
    return tvm_ffi.structural_map(expr, (Var, lambda v: next((new for old, new in pairs if old.same_as(v)), v)))


def _kernel(
    source: tuple[int, ...], shape: tuple[int, ...], variables: list[Var], indices: list, across: int, side: int
) -> PrimFunc:
    """``out[i] = x[indices(i)]``: x's lines, along axis `across` of the result, become its columns."""
    vector = f"float32x{side}"
    tiles = [-(-shape[axis] // side) for axis in (across, len(shape) - 1)]
    outer = [1 if axis in (across, len(shape) - 1) else size for axis, size in enumerate(shape)]
    index_dtype = variables[0].ty.dtype
    shared = T.parallel if math.prod(shape) >= PARALLEL_FROM else T.serial

    def emit(x, out) -> None:
        with shared(tirx.const(math.prod(outer) * tiles[0], index_dtype)) as task:
            position, rest = [], T.Bind(task // tiles[0])
            for size in reversed(outer):
                position.insert(0, T.Bind(rest % size))
                rest = T.Bind(rest // size)
            line = T.Bind(T.min(task % tiles[0] * side, shape[across] - side))
            with T.serial(tirx.const(tiles[1], index_dtype)) as tile:
                column = T.Bind(T.min(tile * side, shape[-1] - side))
                rows = []
                for i in range(side):
                    at = [*position[:-1], column + i]
                    at[across] = line
                    index = [_put(expr, dict(zip(variables, at, strict=True))) for expr in indices]
                    rows.append(T.Bind(x.vload(index, vector)))
                for i, row in enumerate(transposed(rows)):
                    at = [*position[:-1], T.ramp(column, 1, side)]
                    at[across] = line + i
                    T.buffer_store(out, row, at)

    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        x, out = T.arg("x", T.Buffer(source, "float32")), T.arg("out", T.Buffer(shape, "float32"))
        with T.sblock("transpose"):
            T.reads([x[tuple(slice(0, d) for d in source)]])
            T.writes([out[tuple(slice(0, d) for d in shape)]])
            emit(x, out)
    return ib.get()
