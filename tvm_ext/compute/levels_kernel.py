"""The kernel that turns activations into integer levels: a bordered plane, channels innermost, for `product_kernel`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB
from tvm.tirx import PrimFunc

from tvm_ext.compute.product import Plane
from tvm_ext.compute.staircase import Staircase
from tvm_ext.tensor_intrin.byte_table import (
    interleave,
    narrow,
    read_bytes,
    read_dwords,
    round_to_int,
    table_size,
)
from tvm_ext.tensor_intrin.spec import Product
from tvm_ext.tensor_intrin.transpose import four_by_four

_LANES = 16
_TILE = 64
_STARTS = range(0, _TILE, _LANES)


@dataclass(frozen=True, eq=False)
class LevelsInput:
    """float32 values and where they go: [batch, channels, height, width] at (top, left) of a plane, or the same with
    channels last; the rows of a matrix are the width of one image of height 1, channels last."""

    batch: int
    channels: int
    height: int
    width: int
    top: int = 0
    left: int = 0
    channels_last: bool = False
    is_matrix: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        if self.is_matrix:
            return (self.width, self.channels)
        if self.channels_last:
            return (self.batch, self.height, self.width, self.channels)
        return (self.batch, self.channels, self.height, self.width)


def table_constants(plan: Staircase) -> dict[str, np.ndarray]:
    """The constant arguments of `levels_kernel`, in order."""
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


def levels_kernel(
    plan: Staircase, source: LevelsInput, plane: Plane, dtype: str, pad: int, product: Product
) -> PrimFunc:
    """f(x float32 `source.shape`, constants of `table_constants`, out `dtype` `plane.shape`).

    Every level is the plan's value; the border holds `pad`, padding channels hold 0.
    """
    constants = table_constants(plan)
    with IRBuilder() as builder, TB.prim_func(s_tir=True):
        TB.func_name("levels")
        TB.func_attr({"tirx.noalias": True})
        x = TB.arg("x", TB.Buffer(source.shape, "float32"))
        tables = {name: TB.arg(name, TB.Buffer(value.shape, str(value.dtype))) for name, value in constants.items()}
        out = TB.arg("out", TB.Buffer(plane.shape, dtype))
        with TB.sblock("levels"):  # one block: some Relax passes ask what blocks a PrimFunc has
            TB.reads(x[tuple(slice(0, d) for d in source.shape)])
            TB.writes(out[tuple(slice(0, d) for d in plane.shape)])
            emit = _Emitter(plan, source, plane, dtype, product, x, tables, out)
            emit.border(pad)
            emit.rows() if source.channels_last else emit.image()
    return builder.get()


class _Emitter:
    def __init__(self, plan, source, plane, dtype, product, x, tables, out) -> None:
        self.plan, self.source, self.plane, self.dtype, self.product = plan, source, plane, dtype, product
        self.x, self.tables, self.out = x, tables, out
        self.bytes_table = "table" in tables

    # one vector

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
            index = index + _splat(T.int32(offset), lanes) if offset else index
            results.append(T.Bind(index if self.bytes_table else self._byte(index, lanes)))
        return results

    def _index(self, x: Expr, lanes: int, unclipped: bool) -> Expr:
        slope, plan = self.plan.slope, self.plan
        high = _splat(T.float32(slope.high), lanes)
        y = x * high
        if slope.fused:
            dtype = f"float32x{lanes}" if lanes > 1 else "float32"
            y = T.call_llvm_pure_intrin(dtype, "llvm.fma", x, high, x * _splat(T.float32(slope.low), lanes))
        if slope.steps != 1.0:
            y = T.Bind(y) * _splat(T.float32(slope.steps), lanes)
        y = T.min(y, _splat(T.float32(plan.last), lanes))
        if plan.first or not unclipped:
            y = T.max(y, _splat(T.float32(plan.first), lanes))
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
            at = index - _splat(T.int32(self.plan.first), lanes)
            if len(self.plan.table) <= 32:
                at = T.bitwise_and(index, _splat(T.int32(31), lanes))
            at = T.Bind(at)
            cut, up, down = cuts[at], above[at], below[at]
        return self._byte(T.Select(x >= cut, up, down), lanes)

    def _counted(self, xs: list[Expr], lanes: int) -> list[Expr]:
        """The first value plus every rise at a threshold that x has reached."""
        totals = T.alloc_buffer((len(xs) * lanes,), "int32")

        def at(n: int):
            return T.ramp(n * lanes, 1, lanes) if lanes > 1 else n

        for n in range(len(xs)):
            T.buffer_store(totals, _splat(T.int32(int(self.plan.values[0])), lanes), [at(n)])
        if "rises" in self.tables:
            with T.serial(len(self.plan.thresholds)) as k:
                limit = T.Bind(_splat(self.tables["thresholds"][k], lanes))
                rise = T.Bind(_splat(self.tables["rises"][k], lanes))
                for n, x in enumerate(xs):
                    added = T.Select(x >= limit, rise, _splat(T.int32(0), lanes))
                    T.buffer_store(totals, totals[at(n)] + added, [at(n)])
        return [T.Bind(self._byte(totals[at(n)], lanes)) for n in range(len(xs))]

    def _byte(self, value: Expr, lanes: int) -> Expr:
        """A value that may be negative as the byte that stores it."""
        if self.dtype == "int16" or int(self.plan.values.min()) >= 0:
            return value
        return T.bitwise_and(value, _splat(T.int32(255), lanes))

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

    # rows: contiguous in and out

    def rows(self) -> None:
        source = self.source
        with T.parallel(source.batch * source.height) as job:
            b, h = T.Bind(job // source.height), T.Bind(job % source.height)
            with T.serial(source.width) as w:
                at = [b, h + source.top, w + source.left]
                self._row([w] if source.is_matrix else [b, h, w], at)

    def _row(self, where: list, at: list) -> None:
        count, wide = self.source.channels, self.dtype != "int16"
        x, out = self.x, self.out
        saturates = bool(self.product.pack)

        def load(first) -> Expr:
            return T.Bind(x[(*where, T.ramp(first, 1, _LANES))])

        whole = count // _TILE if wide else 0
        if whole:
            with T.serial(whole) as t:
                packed = narrow(self.product, self.values([load(t * _TILE + d) for d in _STARTS], _LANES, saturates))
                T.buffer_store(out, self._stored(self.finished(packed), _TILE), [*at, T.ramp(t * _TILE, 1, _TILE)])
        rest = count - whole * _TILE
        if rest and count >= _LANES and not self.bytes_table:
            # the last vector begins early, so that all are whole
            with T.serial(-(-rest // _LANES)) as t:
                first = T.Bind(T.min(whole * _TILE + t * _LANES, count - _LANES))
                value = self.values([load(first)], _LANES)[0]
                T.buffer_store(out, T.Cast(f"{self.dtype}x{_LANES}", value), [*at, T.ramp(first, 1, _LANES)])
        elif rest and whole:
            first = count - _TILE
            packed = narrow(self.product, self.values([load(first + d) for d in _STARTS], _LANES, saturates))
            T.buffer_store(out, self._stored(self.finished(packed), _TILE), [*at, T.ramp(first, 1, _TILE)])
        elif rest:
            with T.serial(count) as d:
                T.buffer_store(out, self.one(x[(*where, d)]), [*at, d])
        for d in range(count, self.plane.channels):
            T.buffer_store(out, T.Cast(self.dtype, T.int32(0)), [*at, d])

    def _stored(self, value: Expr, lanes: int) -> Expr:
        return T.reinterpret(f"int8x{lanes}", value) if self.dtype == "int8" else value

    # images: channels become innermost

    def image(self) -> None:
        """Tiles of 16 positions; an image's positions are contiguous in a channel, so tiles do not mind its rows."""
        source = self.source
        count = source.height * source.width
        if count < _LANES or self.dtype == "int16":
            self._one_by_one()
            return
        if source.channels <= 4 and source.width >= _LANES and self.plane.channels <= 4:
            self._pixels()
            return
        if self.plane.channels % 4:
            self._one_by_one()
            return
        tiles = -(-count // _LANES)
        with T.parallel(source.batch * tiles) as job:
            b = T.Bind(job // tiles)
            first = T.Bind(T.min(job % tiles * _LANES, count - _LANES))
            places = [T.Bind(T.Cast("int32", self._place(first + n))) for n in range(_LANES)]
            whole = source.channels // 16
            if whole:
                with T.serial(whole) as c:
                    self._sixteen(b, first, c * 16, 16, places)
            if source.channels % 16:
                self._sixteen(b, first, whole * 16, source.channels % 16, places)

    def _pixels(self) -> None:
        """Images of few channels: 16 pixels of a row lie side by side in the plane."""
        source, padded = self.source, self.plane.channels
        with T.parallel(source.batch * source.height) as job:
            b, h = T.Bind(job // source.height), T.Bind(job % source.height)
            start = T.Bind(((h + source.top) * self.plane.width + source.left) * padded)
            with T.serial(-(-source.width // _LANES)) as t:
                w = T.Bind(T.min(t * _LANES, source.width - _LANES))
                quads = self._quad(b, h * source.width + w, 0, source.channels)
                dwords = T.Bind(T.reinterpret(f"{self.dtype}x64", quads))
                for part in range(padded):  # 16 of the bytes that are kept
                    kept = [n // padded * 4 + n % padded for n in range(16 * part, 16 * part + 16)]
                    self._put(b, start + w * padded + 16 * part, T.Shuffle([dwords], kept), 16)

    def _place(self, position) -> Expr:
        """Offset of a position's channels in its image of the plane."""
        h, w = position // self.source.width, position % self.source.width
        return ((h + self.source.top) * self.plane.width + w + self.source.left) * self.plane.channels

    def _sixteen(self, b, first, channel, count: int, places: list[Expr]) -> None:
        """Up to 16 channels of 16 positions: quads of channels make dwords, and a transpose puts quads side by side."""
        if count < 16:
            for quad in range(0, count, 4):
                vector = self._quad(b, first, channel + quad, min(4, count - quad))
                data = T.Bind(T.reinterpret(f"{self.dtype}x64", vector))
                for n in range(_LANES):
                    self._put(b, places[n] + channel + quad, T.Shuffle([data], list(range(4 * n, 4 * n + 4))), 4)
            return
        quads = T.alloc_buffer((64,), "int32")
        with T.serial(4) as quad:
            T.buffer_store(quads, self._quad(b, first, channel + 4 * quad, 4), [T.ramp(quad * 16, 1, 16)])
        loaded = [T.Bind(quads[T.ramp(16 * quad, 1, 16)]) for quad in range(4)]
        # vector r holds position 4 * l + r in its 128-bit lane l
        for r, vector in enumerate(four_by_four(loaded, _LANES)):
            data = T.Bind(T.reinterpret(f"{self.dtype}x64", vector))
            for lane in range(4):
                part = T.Shuffle([data], list(range(16 * lane, 16 * lane + 16)))
                self._put(b, places[4 * lane + r] + channel, part, 16)

    def _quad(self, b, first, channel, count: int) -> Expr:
        """int32 x 16: the levels of up to 4 channels at each of 16 positions, as bytes of its dword."""
        xs = [T.Bind(self.x[b, channel + i, 0, T.ramp(first, 1, _LANES)]) for i in range(count)]
        return T.reinterpret("int32x16", self.finished(interleave(self.values(xs, _LANES))))

    def _put(self, b, place, value: Expr, lanes: int) -> None:
        T.buffer_store(self.out, value, [b, 0, 0, T.ramp(place, 1, lanes)])

    def _one_by_one(self) -> None:
        source = self.source
        with T.parallel(source.batch * source.height) as job:
            b, h = T.Bind(job // source.height), T.Bind(job % source.height)
            with T.serial(source.width) as w, T.serial(source.channels) as c:
                at = [b, h + source.top, w + source.left, c]
                T.buffer_store(self.out, self.one(self.x[b, c, h, w]), at)
        if self.plane.channels > source.channels:
            with T.serial(source.batch) as b, T.serial(source.height) as h, T.serial(source.width) as w:
                for c in range(source.channels, self.plane.channels):
                    at = [b, h + source.top, w + source.left, c]
                    T.buffer_store(self.out, T.Cast(self.dtype, T.int32(0)), at)

    # border

    def border(self, pad: int) -> None:
        """All of the plane around the source: above and below it whole rows, beside it runs."""
        source, plane = self.source, self.plane
        row = plane.width * plane.channels
        right = plane.width - source.left - source.width
        below = plane.height - source.top - source.height
        spans = [(0, source.top * row), ((source.top + source.height) * row, below * row)]
        beside = [
            (0, source.left * plane.channels),
            ((source.left + source.width) * plane.channels, right * plane.channels),
        ]
        if not any(size for _, size in spans + beside):
            return
        with T.serial(source.batch) as b:
            for first, size in spans:
                self._fill(b, first, size, pad)
            if any(size for _, size in beside):
                with T.serial(source.height) as h:
                    for first, size in beside:
                        self._fill(b, (h + source.top) * row + first, size, pad)

    def _fill(self, b, first, size: int, pad: int) -> None:
        if not size:
            return
        channels, padded = self.source.channels, self.plane.channels
        if pad and channels < padded:
            with T.serial(size // padded) as s, T.serial(padded) as c:
                value = T.Select(c < channels, T.int32(pad), T.int32(0))
                T.buffer_store(self.out, T.Cast(self.dtype, value), [b, 0, 0, first + s * padded + c])
            return
        lanes = next(n for n in (64, 16, 4, 1) if size % n == 0)
        with T.serial(size // lanes) as s:
            value = _splat(T.Cast(self.dtype, T.int32(pad)), lanes)
            at = first + s * lanes
            T.buffer_store(self.out, value, [b, 0, 0, T.ramp(at, 1, lanes) if lanes > 1 else at])


def _splat(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else T.broadcast(value, lanes)
