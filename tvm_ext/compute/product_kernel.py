"""The kernel of a layer over integer levels: decode a block of weights, then register tiles of sums of products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB
from tvm.tirx import PrimFunc

from tvm_ext.compute.lookup import activated
from tvm_ext.compute.product import ProductLayer
from tvm_ext.tensor_intrin.product_steps import decode
from tvm_ext.tensor_intrin.transpose import transposed


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the sums: ``act(scale[m] * (sum + start[m]) + bias[m] + residual)``.

    feature_major : the result is [batch, M, height, width]; else [batch, height, width, M] (dense: [rows, M]).
    """

    activation: str = ""
    residual: bool = False
    feature_major: bool = False


def product_kernel(layer: ProductLayer, epilogue: Epilogue) -> PrimFunc:
    """f(plane, weight[, palette], scale, bias, start[, residual], out), all but the plane as `product` packs them.

    plane : `layer.steps.level_dtype`, `layer.plane.shape`. scale, bias float32, start int32: one an output, padded.
    """
    outputs = layer.blocks * layer.block
    height, width = layer.output_size
    shape: tuple[int, ...] = (layer.batch, height, width, layer.outputs)
    if not layer.patches.is_conv:
        shape = (width, layer.outputs)
    elif epilogue.feature_major:
        shape = (layer.batch, layer.outputs, height, width)
    with IRBuilder() as builder, TB.prim_func(s_tir=True):
        TB.func_name("product")
        TB.func_attr({"tirx.noalias": True})
        plane = TB.arg("plane", TB.Buffer(layer.plane.shape, layer.steps.level_dtype))
        weight = TB.arg("weight", TB.Buffer(layer.weight_shape, layer.weight_dtype))
        palette = TB.arg("palette", TB.Buffer((16,), "int8")) if layer.bits < 8 else None
        scale = TB.arg("scale", TB.Buffer((outputs,), "float32"))
        bias = TB.arg("bias", TB.Buffer((outputs,), "float32"))
        start = TB.arg("start", TB.Buffer((outputs,), "int32"))
        residual = TB.arg("residual", TB.Buffer(shape, "float32")) if epilogue.residual else None
        out = TB.arg("out", TB.Buffer(shape, "float32"))
        with TB.sblock("product"):  # one block: some Relax passes ask what blocks a PrimFunc has
            TB.reads(*(buffer[tuple(slice(0, d) for d in buffer.shape)] for buffer in (plane, weight)))
            TB.writes(out[tuple(slice(0, d) for d in shape)])
            _Emitter(layer, epilogue).kernel(plane, weight, palette, (scale, bias, start), residual, out)
    return builder.get()


class _Emitter:
    """Builds the statements; the loops are those of TIR, register tiles are unrolled here."""

    def __init__(self, layer: ProductLayer, epilogue: Epilogue) -> None:
        self.layer, self.steps, self.epilogue = layer, layer.steps, epilogue
        self.size, self.lanes = layer.steps.product.bytes, layer.steps.product.lanes

    def kernel(self, plane, weight, palette, constants, added, out) -> None:
        layer = self.layer
        part = layer.batch * layer.strips
        with T.parallel(layer.blocks * part) as job:
            block, image = T.Bind(job // part), T.Bind(job % part // layer.strips)
            strip = job % layer.strips
            table = None if palette is None else T.Bind(self._palette(palette))
            source = self._decoded(weight, table, block)
            with T.serial(layer.groups // layer.strips) as g:
                height = layer.output_size[0]
                first = T.Bind(T.min((strip * (layer.groups // layer.strips) + g) * layer.group, height - layer.group))
                tile = T.alloc_buffer((self._collected,), "float32") if self.epilogue.feature_major else None
                with T.serial(layer.group) as i, T.serial(layer.tiled_width // layer.rows) as t:
                    sums = self._sums(plane, source, image, first + i, t * layer.rows)
                    if tile is not None:
                        self._collect(sums, tile, i * layer.output_size[1] + t * layer.rows, block, constants)
                    else:
                        self._store_rows(sums, out, added, image, first + i, t * layer.rows, block, constants)
                if tile is not None:
                    self._store_features(tile, out, added, image, first, block)

    # weights

    def _palette(self, palette) -> Expr:
        copies = self.size // 16
        vector = palette.vload([0], "int8x16")
        return vector if copies == 1 else T.Shuffle([vector] * copies, list(range(self.size)))

    def _decoded(self, weight, table: Expr | None, block: Expr) -> Callable[[Any, int], list[Expr]]:
        """load(step, q): the weights of `packing` steps (in place), or of one step, as vectors."""
        layer, size = self.layer, self.size
        dtype, count = ("int16", size // 2) if self.steps.word else ("int8", size)

        def stored(step, q: int) -> Expr:
            at = ((step * layer.vectors) + q) * count
            value = weight[block, T.ramp(at, 1, count)]
            return value if layer.bits >= 8 else T.Bind(value)

        if layer.bits >= 8:
            return lambda step, q: [T.Bind(stored(step, q))]
        if layer.decoded_in_place:
            return lambda step, q: decode(self.steps.product, stored(step, q), table, layer.bits)
        slots = -(-layer.num_steps // layer.packing)
        scratch = T.alloc_buffer((slots * layer.packing * layer.vectors * size,), dtype)
        with T.serial(slots) as s:
            for q in range(layer.vectors):
                for part, vector in enumerate(decode(self.steps.product, stored(s, q), table, layer.bits)):
                    at = ((s * layer.packing + part) * layer.vectors + q) * size
                    T.buffer_store(scratch, vector, [T.ramp(at, 1, size)])
        return lambda step, q: [T.Bind(scratch[T.ramp((step * layer.vectors + q) * size, 1, size)])]

    # sums of a register tile

    def _sums(self, plane, source, image, row, column) -> list[list[Expr]]:
        """int32 x lanes for every row and vector of a tile."""
        layer, steps = self.layer, self.steps
        rows, vectors = layer.rows, layer.vectors
        group = layer.packing if layer.decoded_in_place else 1
        apart = group if layer.decoded_in_place else 1  # sums of few rows do not wait for each other
        acc = _Vectors(rows * vectors * apart, steps.acc_dtype, steps.acc_lanes)
        (_, kw), (sh, sw), (dh, dw) = layer.patches.kernel, layer.patches.strides, layer.patches.dilations
        inner, taps, outer = self._drain_loops(group)
        total = _Vectors(rows * vectors, "int32", self.lanes) if outer > 1 else None
        if total is not None:
            total.clear()

        def add(tap, c) -> None:
            i, j = (tap, 0) if layer.runs else (tap // kw, tap % kw)
            step = tap * layer.channel_steps + c
            loaded = [source(step if group == 1 else step // group, q) for q in range(vectors)]
            for part in range(group):
                for r in range(rows):
                    at = [image, row * sh + i * dh, (column + r) * sw + j * dw, (c + part) * steps.depth]
                    levels = self._broadcast(plane, at)
                    for q in range(vectors):
                        n = ((part * (apart > 1)) * rows + r) * vectors + q
                        acc.set(n, steps.add(acc.get(n), levels, loaded[q][part]))

        def run(tap0, c0) -> None:
            acc.clear()
            with T.serial(taps) as tap, T.serial(inner // group) as c:
                add(tap0 + tap, c0 + c * group)

        def drained(n: int) -> Expr:
            value = steps.drain(acc.get(n))
            for part in range(1, apart):
                value = value + steps.drain(acc.get(part * rows * vectors + n))
            return value

        count, parts = rows * vectors, layer.channel_steps // inner
        if total is None:
            run(0, 0)
            sums = [T.Bind(drained(n)) for n in range(count)]
        else:
            with T.serial(outer) as o:
                run(o // parts * taps, o % parts * inner)
                for n in range(count):
                    total.set(n, total.get(n) + drained(n))
            sums = [T.Bind(total.get(n)) for n in range(count)]
        return [sums[r * vectors : (r + 1) * vectors] for r in range(rows)]

    def _drain_loops(self, group: int) -> tuple[int, int, int]:
        """(steps over channels, taps) between drains, and how many drains there are."""
        layer, limit = self.layer, self.steps.chunk
        taps, channels = layer.taps, layer.channel_steps
        if not limit or layer.num_steps <= limit:
            return channels, taps, 1
        if channels <= limit:
            together = next(n for n in range(min(taps, limit // channels), 0, -1) if taps % n == 0)
            return channels, together, taps // together
        inner = next(n for n in range(min(channels, limit), 0, -1) if channels % n == 0 and n % group == 0)
        return inner, 1, taps * (channels // inner)

    def _broadcast(self, plane, at: list) -> Expr:
        depth = self.steps.depth
        dword = T.reinterpret("int32", plane.vload(at, f"{self.steps.level_dtype}x{depth}"))
        dtype, count = ("int16", self.size // 2) if self.steps.word else ("int8", self.size)
        return T.Bind(T.reinterpret(f"{dtype}x{count}", T.broadcast(dword, self.lanes)))

    # results

    @property
    def _collected(self) -> int:
        """float32 elements of a group's results, one position's outputs side by side; the last tile may hang over."""
        layer = self.layer
        return (layer.group * layer.output_size[1] + layer.rows) * layer.block

    def _scaled(self, total: Expr, q: int, block, constants) -> Expr:
        scale, bias, start = constants
        at = T.ramp(block * self.layer.block + q * self.lanes, 1, self.lanes)
        return T.Cast(f"float32x{self.lanes}", total + start[at]) * scale[at] + bias[at]

    def _finish(self, value: Expr, added: Expr | None) -> Expr:
        value = value if added is None else value + added
        return activated(value, self.epilogue.activation, self.lanes)

    def _collect(self, sums, tile, position, block, constants) -> None:
        for r, vectors in enumerate(sums):
            for q, total in enumerate(vectors):
                at = (position + r) * self.layer.block + q * self.lanes
                T.buffer_store(tile, self._scaled(total, q, block, constants), [T.ramp(at, 1, self.lanes)])

    def _store_rows(self, sums, out, added, image, row, column, block, constants) -> None:
        layer, lanes = self.layer, self.lanes
        width = layer.output_size[1]
        whole = layer.outputs % layer.block == 0
        tail = None if layer.outputs % lanes == 0 else T.alloc_buffer((lanes,), "float32")
        for r, vectors in enumerate(sums):
            position = [image, row, column + r] if layer.patches.is_conv else [column + r]

            def store(vectors: Sequence[Expr] = vectors, position: list = position) -> None:
                for q, total in enumerate(vectors):
                    first = T.Bind(block * layer.block + q * lanes)
                    value = self._scaled(total, q, block, constants)
                    if whole:
                        self._store_vector(out, added, position, first, value)
                        continue
                    with T.If(first + lanes <= layer.outputs):
                        with T.Then():
                            self._store_vector(out, added, position, first, value)
                        if tail is not None:
                            with T.Else():
                                self._store_tail(out, added, position, first, value, tail)

            if width % layer.rows == 0:
                store()
            else:
                with T.If(column + r < width), T.Then():
                    store()

    def _store_vector(self, out, added, at: list, first, value: Expr) -> None:
        index = [*at, T.ramp(first, 1, self.lanes)]
        T.buffer_store(out, self._finish(value, None if added is None else added[tuple(index)]), index)

    def _store_tail(self, out, added, at: list, first, value: Expr, tail) -> None:
        T.buffer_store(tail, value, [T.ramp(0, 1, self.lanes)])
        with T.serial(self.lanes) as lane, T.If(first + lane < self.layer.outputs), T.Then():
            index = [*at, first + lane]
            one = tail[lane] if added is None else tail[lane] + added[tuple(index)]
            T.buffer_store(out, activated(one, self.epilogue.activation), index)

    def _store_features(self, tile, out, added, image, first, block) -> None:
        """The collected rows transposed, square by square; the last squares begin early, so that all are whole."""
        layer, side = self.layer, self.lanes
        count = layer.group * layer.output_size[1]
        if count < side:
            with T.serial(layer.block * count) as i:
                m, n = T.Bind(i // count), T.Bind(i % count)
                with T.If(block * layer.block + m < layer.outputs), T.Then():
                    index = [image, block * layer.block + m, first, n]
                    one = tile[n * layer.block + m]
                    one = one if added is None else one + added[tuple(index)]
                    T.buffer_store(out, activated(one, self.epilogue.activation), index)
            return
        with T.serial(-(-count // side)) as t:
            start = T.Bind(T.min(t * side, count - side))
            for q in range(layer.vectors):
                rows = [
                    T.Bind(tile[T.ramp((start + n) * layer.block + q * side, 1, side)]) for n in range(side)
                ]  # fmt: skip
                for m, column in enumerate(transposed(rows)):
                    channel = block * layer.block + q * side + m
                    # positions of a group are neighbours in memory, whatever image row they are in
                    index = [image, channel, first, T.ramp(start, 1, side)]
                    if layer.outputs % layer.block == 0:
                        T.buffer_store(out, self._finish(column, None if added is None else added[tuple(index)]), index)
                        continue
                    with T.If(channel < layer.outputs), T.Then():
                        T.buffer_store(out, self._finish(column, None if added is None else added[tuple(index)]), index)


class _Vectors:
    """Vectors that LLVM keeps in registers: a buffer that is only read and written at constant places."""

    def __init__(self, count: int, dtype: str, lanes: int) -> None:
        self.buffer = T.alloc_buffer((count * lanes,), dtype)
        self.count, self.dtype, self.lanes = count, dtype, lanes

    def _at(self, n: int) -> Any:
        return T.ramp(n * self.lanes, 1, self.lanes)

    def get(self, n: int) -> Expr:
        return self.buffer[self._at(n)]

    def set(self, n: int, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [self._at(n)])

    def clear(self) -> None:
        for n in range(self.count):
            self.set(n, T.broadcast(T.Cast(self.dtype, T.int32(0)), self.lanes))
