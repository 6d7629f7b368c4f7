"""Vectors of integer levels from vectors of float32, by the plan of a staircase; and the constants they read."""

from __future__ import annotations

import numpy as np
from tvm.ir import Expr
from tvm.script import tirx as T

from tvm_ext.compute.staircase import Staircase
from tvm_ext.tensor_intrin.byte_table import read_bytes, read_dwords, round_to_int, table_size
from tvm_ext.tensor_intrin.spec import Product

_LANES = 16


def table_constants(plan: Staircase) -> dict[str, np.ndarray]:
    """The constant arguments of `levels_kernel`, in order."""
    found = _exact_constants(plan)
    if plan.truncated is not None:
        found["upper_table"] = (plan.truncated.table.astype(np.int64) & 255).astype(np.uint8).view(np.int8)
    return found


def _exact_constants(plan: Staircase) -> dict[str, np.ndarray]:
    if plan.method == "grid" and not plan.is_affine:
        assert plan.table is not None
        table = np.zeros(table_size(len(plan.table)), np.uint8)
        table[: len(plan.table)] = plan.table.astype(np.int64) & 255
        return {"table": table.view(np.int8)}
    if plan.method == "count":
        return (
            {"thresholds": plan.thresholds, "rises": np.diff(plan.values).astype(np.int32)}
            if len(plan.thresholds)
            else {}
        )
    if plan.method == "cells":
        assert plan.table is not None and plan.above is not None and plan.cuts is not None
        values = {"cuts": plan.cuts, "below": plan.table.astype(np.int32), "above": plan.above.astype(np.int32)}
        if len(plan.table) > 32:
            return values
        place = np.arange(plan.first, plan.last + 1) % 32  # the permutation looks at the low five bits of an index
        turned = {}
        for name, value in values.items():
            turned[name] = np.zeros(32, value.dtype)
            turned[name][place] = value
        return turned
    return {}


class LevelVectors:
    """Emits the exact plan.

    Parameters
    ----------
    dtype : of a stored level.
    tables : buffers of `table_constants`.
    """

    def __init__(self, plan: Staircase, dtype: str, product: Product, tables: dict) -> None:
        self.plan, self.dtype, self.product, self.tables = plan, dtype, product, tables
        self.bytes_table = "table" in tables

    def values(self, xs: list[Expr], lanes: int, saturated: bool = False) -> list[Expr]:
        """int32 x `lanes` of each x: values (as bytes, unless levels are int16), or indices into the byte table.

        `saturated`: what follows makes 0 of negative ones.
        """
        plan = self.plan
        if plan.method == "count":
            return self._counted(xs, lanes)
        # what is added to an index must not see negative ones
        unclipped = saturated and plan.method == "grid" and (self.bytes_table or int(plan.values[0]) == plan.first)
        results = []
        for x in xs:
            index = self._index(x, lanes, unclipped)
            if plan.method == "cells":
                results.append(T.Bind(self._cut(x, index, lanes)))
                continue
            assert plan.table is not None
            offset = -plan.first if self.bytes_table else int(plan.table[0]) - plan.first
            index = index + splat(T.int32(offset), lanes) if offset else index
            results.append(T.Bind(index if self.bytes_table else self._byte(index, lanes)))
        return results

    def _index(self, x: Expr, lanes: int, unclipped: bool) -> Expr:
        slope, plan = self.plan.slope, self.plan
        high = splat(T.float32(slope.high), lanes)
        y = x * high
        if slope.fused:
            dtype = f"float32x{lanes}" if lanes > 1 else "float32"
            y = T.call_llvm_pure_intrin(dtype, "llvm.fma", x, high, x * splat(T.float32(slope.low), lanes))
        if slope.steps != 1.0:
            y = T.Bind(y) * splat(T.float32(slope.steps), lanes)
        y = T.min(y, splat(T.float32(plan.last), lanes))
        if plan.first or not unclipped:
            y = T.max(y, splat(T.float32(plan.first), lanes))
        return round_to_int(y, lanes)

    def _cut(self, x: Expr, index: Expr, lanes: int) -> Expr:
        """The value on the right side of the threshold of a cell."""
        cuts, below, above = (self.tables[name] for name in ("cuts", "below", "above"))
        index = T.Bind(index)
        assert self.plan.table is not None
        if len(self.plan.table) <= 32 and lanes == _LANES and self.product.permute_words:
            cut = read_dwords(self.product, cuts, index, "float32")
            up, down = (read_dwords(self.product, table, index, "int32") for table in (above, below))
        else:
            at = index - splat(T.int32(self.plan.first), lanes)
            if len(self.plan.table) <= 32:
                at = T.bitwise_and(index, splat(T.int32(31), lanes))
            at = T.Bind(at)
            cut, up, down = cuts[at], above[at], below[at]
        return self._byte(T.Select(x >= cut, up, down), lanes)

    def _counted(self, xs: list[Expr], lanes: int) -> list[Expr]:
        """The first value plus every rise at a threshold that x has reached."""
        totals = T.alloc_buffer((len(xs) * lanes,), "int32")

        def at(n: int):
            return T.ramp(n * lanes, 1, lanes) if lanes > 1 else n

        for n in range(len(xs)):
            T.buffer_store(totals, splat(T.int32(int(self.plan.values[0])), lanes), [at(n)])
        if "rises" in self.tables:
            with T.serial(len(self.plan.thresholds)) as k:
                limit = T.Bind(splat(self.tables["thresholds"][k], lanes))
                rise = T.Bind(splat(self.tables["rises"][k], lanes))
                for n, x in enumerate(xs):
                    added = T.Select(x >= limit, rise, splat(T.int32(0), lanes))
                    T.buffer_store(totals, totals[at(n)] + added, [at(n)])
        return [T.Bind(self._byte(totals[at(n)], lanes)) for n in range(len(xs))]

    def _byte(self, value: Expr, lanes: int) -> Expr:
        """A value that may be negative as the byte that stores it."""
        if self.dtype == "int16" or int(self.plan.values.min()) >= 0:
            return value
        return T.bitwise_and(value, splat(T.int32(255), lanes))

    def finished(self, packed: Expr) -> Expr:
        """uint8 x 64 of values, from uint8 x 64 of `values`."""
        if not self.bytes_table:
            return packed
        assert self.plan.table is not None
        return read_bytes(self.product, self.tables["table"], len(self.plan.table), T.Bind(packed))

    def one(self, x: Expr) -> Expr:
        """A single level, for what fills no vector."""
        value = self.values([T.Bind(x)], 1)[0]
        if self.bytes_table:
            value = T.Cast("int32", self.tables["table"][value])
        return T.Cast(self.dtype, value)

    def stored(self, value: Expr, lanes: int) -> Expr:
        """uint8 x lanes as the dtype of levels."""
        return T.reinterpret(f"int8x{lanes}", value) if self.dtype == "int8" else value


def splat(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else T.broadcast(value, lanes)
