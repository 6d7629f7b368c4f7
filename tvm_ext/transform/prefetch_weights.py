"""PrefetchWeights: while one block of outputs is computed, the packed weights of the next come into the cache.

Where a block's weights are read once only, they come a little ahead of their use.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from tvm_ext.schedule.contraction import PREFETCH
from tvm_ext.transform._rewrite import map_kernels

_READ, _KEEP_IN_L2, _KEEP_IN_L1, _DATA = 0, 2, 3, 1
"""Arguments of llvm.prefetch."""
_AHEAD = 32
"""Terms of a sum ahead of which their weights are fetched where a single tile reads them."""
_LINE = 16
"""float32 values of a cache line."""


@tvm.transform.module_pass(opt_level=0, name="PrefetchWeights")
class PrefetchWeights:
    """Adds a prefetch to every loop that is annotated so (see `schedule.contraction`).

    The annotation tells how many tiles share a block's weights. Each iteration of each of these tiles fetches its share
    of the next block; hardware prefetchers do not see that far, and stop at the end of a page.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return map_kernels(mod, (tirx.For, _rewrite))


def _rewrite(loop: tirx.For) -> tirx.For:
    if PREFETCH not in loop.annotations:
        return loop
    height, width, lines, columns, burst = (int(v) for v in loop.annotations[PREFETCH])
    realize, inner = _inside(loop.body)
    block = realize.block
    values = [_at_start(value, inner) for value in realize.iter_values]
    spatial = [v for v, var in zip(values, block.iter_vars, strict=True) if int(var.iter_type) == 0]
    reduce = [(v, var) for v, var in zip(values, block.iter_vars, strict=True) if int(var.iter_type) == 2]
    step, depth = tirx.const(0, "int64"), 1
    for value, var in reduce:
        step, depth = step * var.dom.extent + value, depth * int(var.dom.extent)
    *lead, row, column, number, _ = spatial
    tile = (row // height) * columns + column // width
    if lead:
        tile = lead[0] * (lines * columns) + tile
    weight = _weight(block)
    own = {var.var: value for value, var in zip(values, block.iter_vars, strict=True)}
    at = next(i for i, index in enumerate(weight.indices) if own.get(index) is number)
    share = -(-int(weight.source.shape[-1]) // (lines * columns))
    offset = (tile * depth + step) * share
    zeros = [tirx.const(0, "int64")] * len(weight.indices)
    line = tirx.Var("line", "int64")
    if lines * columns == 1:
        zeros[at], zeros[-1], cache = number, offset + share * _AHEAD + line * _LINE, _KEEP_IN_L1
    else:
        zeros[at], zeros[-1], cache = number + 1, offset + line * _LINE, _KEEP_IN_L2
    address = tirx.address_of(tirx.BufferLoad(weight.source, zeros))
    fetch = tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, _READ, cache, _DATA))
    count = -(-share * burst // _LINE)
    fetch = tirx.For(line, 0, count, tirx.ForKind.SERIAL, fetch)
    annotations = {k: v for k, v in loop.annotations.items() if k != PREFETCH}
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, tirx.SeqStmt([fetch, loop.body]), loop.thread_binding,
        annotations,
    )  # fmt: skip


def _inside(stmt: tirx.Stmt) -> tuple[s_tir.SBlockRealize, list[tirx.Var]]:
    """The block in a nest of loops, and the loops' variables."""
    inner = []
    while isinstance(stmt, tirx.For):
        inner.append(stmt.loop_var)
        stmt = stmt.body
    return stmt, inner


def _at_start(value: tirx.Expr, inner: list[tirx.Var]) -> tirx.Expr:
    return tvm_ffi.structural_map(value, (tirx.Var, lambda v: tirx.const(0, v.ty.dtype) if v in inner else v))


def _weight(block: s_tir.SBlock) -> TensorLoad:
    """What the block reads with its last spatial variable as the last index, other than its own result."""
    loads: list[TensorLoad] = []
    tvm_ffi.structural_walk(block.body, (TensorLoad, loads.append))
    return loads[-1]
