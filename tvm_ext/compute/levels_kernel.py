"""The kernel that turns activations into integer levels: a bordered plane, channels innermost, for `product_kernel`."""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB
from tvm.tirx import PrimFunc

from tvm_ext.compute.level_vectors import LevelVectors, table_constants
from tvm_ext.compute.levels_input import LevelsInput, fill_border
from tvm_ext.compute.product import Plane
from tvm_ext.compute.staircase import Staircase
from tvm_ext.compute.truncated_levels import TruncatedLevels, piece_of
from tvm_ext.tensor_intrin.byte_table import interleave, narrow
from tvm_ext.tensor_intrin.spec import Product
from tvm_ext.tensor_intrin.transpose import four_by_four

_LANES = 16
_TILE = 64
_STARTS = range(0, _TILE, _LANES)


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
            emit = _Emitter(LevelVectors(plan, dtype, product, tables), source, plane, x, out)
            fill_border(source, plane, out, dtype, pad)
            emit.rows() if source.channels_last else emit.image()
    return builder.get()


class _Emitter:
    def __init__(self, vectors: LevelVectors, source: LevelsInput, plane: Plane, x, out) -> None:
        self.vectors, self.source, self.plane, self.x, self.out = vectors, source, plane, x, out
        self.plan, self.dtype, self.product = vectors.plan, vectors.dtype, vectors.product
        self.truncated: TruncatedLevels | None = None  # while vectors may be computed that way

    # rows: contiguous in and out

    def rows(self) -> None:
        source = self.source
        length = self._run()
        if self.plan.truncated is not None and length >= _TILE:
            self._runs(length)
            return
        with T.parallel(source.batch * source.height) as job:
            b, h = T.Bind(job // source.height), T.Bind(job % source.height)
            with T.serial(source.width) as w:
                at = [b, h + source.top, w + source.left]
                self._row([w] if source.is_matrix else [b, h, w], at)

    def _run(self) -> int:
        """Values that follow each other in the input as in the plane."""
        source, plane = self.source, self.plane
        if source.channels != plane.channels:
            return source.channels
        if source.width != plane.width:
            return source.channels * source.width
        return source.channels * source.width * source.height

    def _runs(self, length: int) -> None:
        """Pieces of runs; the last one of a run begins early, so that all are whole."""
        source, piece = self.source, piece_of(length)
        runs = source.batch * source.height * source.width * source.channels // length
        pieces = -(-length // piece)
        with T.parallel(runs * pieces) as job:
            run, first = T.Bind(job // pieces), T.Bind(T.min(job % pieces * piece, length - piece))
            origin = T.Bind(self._origin(run * (length // source.channels)) + first)
            self._piece(run * length + first, origin, piece)
        if source.channels < self.plane.channels:
            self._padding_channels()

    def _origin(self, pixel) -> Expr:
        """Offset in the plane of a pixel of the source, both counted in memory order."""
        source, plane = self.source, self.plane
        b, h, w = pixel // (source.height * source.width), pixel // source.width % source.height, pixel % source.width
        return (((b * plane.height + h + source.top) * plane.width) + w + source.left) * plane.channels

    def _piece(self, start, origin, size: int) -> None:
        """`size` values from `start` of the input on, to `origin` of the plane on."""
        first_of = [0] * (len(self.source.shape) - 1)

        def load(t) -> list[Expr]:
            return [T.Bind(self.x[(*first_of, T.ramp(start + t * _TILE + d, 1, _LANES))]) for d in _STARTS]

        def put(t, vector: Expr) -> None:
            at = [0, 0, 0, T.ramp(origin + t * _TILE, 1, _TILE)]
            T.buffer_store(self.out, self.vectors.stored(vector, _TILE), at)

        def exactly() -> None:
            with T.serial(size // _TILE) as t:
                packed = narrow(self.product, self.vectors.values(load(t), _LANES, bool(self.product.pack)))
                put(t, self.vectors.finished(packed))

        quick = self._quick()
        quick.begin()
        with T.serial(size // _TILE) as t:
            put(t, quick.in_order(load(t)))
        quick.repeat_if_doubtful(exactly)

    def _quick(self) -> TruncatedLevels:
        assert self.plan.truncated is not None
        return TruncatedLevels(self.plan.truncated, self.product, self.vectors.tables["upper_table"])

    def _padding_channels(self) -> None:
        source = self.source
        with T.serial(source.batch) as b, T.serial(source.height) as h, T.serial(source.width) as w:
            for c in range(source.channels, self.plane.channels):
                at = [b, h + source.top, w + source.left, c]
                T.buffer_store(self.out, T.Cast(self.dtype, T.int32(0)), at)

    def _row(self, where: list, at: list) -> None:
        count, wide = self.source.channels, self.dtype != "int16"
        x, out = self.x, self.out
        saturates = bool(self.product.pack)

        def load(first) -> Expr:
            return T.Bind(x[(*where, T.ramp(first, 1, _LANES))])

        whole = count // _TILE if wide else 0
        if whole:
            with T.serial(whole) as t:
                packed = narrow(
                    self.product, self.vectors.values([load(t * _TILE + d) for d in _STARTS], _LANES, saturates)
                )
                T.buffer_store(
                    out, self.vectors.stored(self.vectors.finished(packed), _TILE), [*at, T.ramp(t * _TILE, 1, _TILE)]
                )
        rest = count - whole * _TILE
        if rest and count >= _LANES and not self.vectors.bytes_table:
            # the last vector begins early, so that all are whole
            with T.serial(-(-rest // _LANES)) as t:
                first = T.Bind(T.min(whole * _TILE + t * _LANES, count - _LANES))
                value = self.vectors.values([load(first)], _LANES)[0]
                T.buffer_store(out, T.Cast(f"{self.dtype}x{_LANES}", value), [*at, T.ramp(first, 1, _LANES)])
        elif rest and whole:
            first = count - _TILE
            packed = narrow(self.product, self.vectors.values([load(first + d) for d in _STARTS], _LANES, saturates))
            T.buffer_store(
                out, self.vectors.stored(self.vectors.finished(packed), _TILE), [*at, T.ramp(first, 1, _TILE)]
            )
        elif rest:
            with T.serial(count) as d:
                T.buffer_store(out, self.vectors.one(x[(*where, d)]), [*at, d])
        for d in range(count, self.plane.channels):
            T.buffer_store(out, T.Cast(self.dtype, T.int32(0)), [*at, d])

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
        if self.plan.truncated is None:
            self._transposed(b, first, channel, places)
            return
        self.truncated = self._quick()
        self.truncated.begin()
        self._transposed(b, first, channel, places)
        quick, self.truncated = self.truncated, None
        quick.repeat_if_doubtful(lambda: self._transposed(b, first, channel, places))

    def _transposed(self, b, first, channel, places: list[Expr]) -> None:
        """16 channels of 16 positions."""
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
        if self.truncated is not None:
            return T.reinterpret("int32x16", self.truncated.interleaved(xs))
        return T.reinterpret("int32x16", self.vectors.finished(interleave(self.vectors.values(xs, _LANES))))

    def _put(self, b, place, value: Expr, lanes: int) -> None:
        T.buffer_store(self.out, value, [b, 0, 0, T.ramp(place, 1, lanes)])

    def _one_by_one(self) -> None:
        source = self.source
        with T.parallel(source.batch * source.height) as job:
            b, h = T.Bind(job // source.height), T.Bind(job % source.height)
            with T.serial(source.width) as w, T.serial(source.channels) as c:
                at = [b, h + source.top, w + source.left, c]
                T.buffer_store(self.out, self.vectors.one(self.x[b, c, h, w]), at)
        if self.plane.channels > source.channels:
            self._padding_channels()
