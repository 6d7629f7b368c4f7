"""Hash trees on packed layouts: columns of inputs -> tiles of codes, as the ISA's table read takes them.

For a span of rows and a group of codebooks, the columns that the trees look at are collected in a scratch that stays in
the first cache, then walked a vector of rows at a time. Only these columns are read and quantized, and no im2col is.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.tree_columns import Columns
from tvm_ext.compute.tree_tiles import store_tiles
from tvm_ext.compute.tree_walk import walk_bytes, walk_floats, walk_one
from tvm_ext.tensor_intrin import TABLE_ENTRIES, Isa
from tvm_ext.threads import worth_threads

_SPANS = {"int8": 512, "float32": 128}
"""Rows whose columns are collected together: 4 codebooks x 4 levels x 512 bytes are a part of the first cache."""
_LANES = 16
_NS_PER_ELEMENT = 0.1


@dataclass(frozen=True)
class TreeKernel:
    """A kernel's shape.

    Parameters
    ----------
    patches : rows to encode.
    search : how they are compared; int8 values are stored with the search's zero point.
    isa : whose tiles are made.
    levels : L, at most 4.
    codebooks : C with padding, whole groups.
    tiles : of rows.
    x_dtype : float32, or int8 where x is quantized already.
    plane_size : elements of a channel's plane, for a conv.
    """

    patches: Patches
    search: Search
    isa: Isa
    levels: int
    codebooks: int
    tiles: int
    x_dtype: str
    plane_size: int = 0

    @property
    def columns(self) -> Columns:
        """Columns as they are collected."""
        return Columns(self.patches, self.x_dtype, self._span, self.plane_size)

    @property
    def quantizes(self) -> bool:
        """Whether the kernel itself quantizes: then it takes inv_scale."""
        return self.search.encode_dtype == "int8" and self.x_dtype == "float32"

    def build(self, x_shape: tuple[int, ...]) -> PrimFunc:
        """(x, leaves uint8 [C, 16], [inv_scale float32 [C],] starts int32 [C, L], thresholds [C, 16]) -> codes.

        Thresholds are int8 or float32; starts are `Columns.start` of the elements to look at.
        """
        read = self.isa.table_read
        value = "int8" if self.search.encode_dtype == "int8" else "float32"
        shape = (self.patches.batch, self.tiles, self.codebooks // read.group, *read.code_shape)
        with IRBuilder() as ib, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            x = T.arg("x", T.Buffer(x_shape, self.x_dtype))
            leaves = T.arg("leaves", T.Buffer((self.codebooks, TABLE_ENTRIES), "uint8"))
            scale = T.arg("inv_scale", T.Buffer((self.codebooks,), "float32")) if self.quantizes else None
            starts = T.arg("starts", T.Buffer((self.codebooks, self.levels), "int32"))
            thresholds = T.arg("thresholds", T.Buffer((self.codebooks, TABLE_ENTRIES), value))
            codes = T.arg("codes", T.Buffer(shape, "uint8"))
            with T.sblock("tree"):
                T.reads([x[tuple(slice(0, d) for d in x_shape)]])
                T.writes([codes[tuple(slice(0, d) for d in shape)]])
                self._spans(x, leaves, scale, starts, thresholds, codes, value)
        return ib.get()

    @property
    def _span(self) -> int:
        """Rows collected together: equal parts of all of them, whole blocks."""
        blocks = -(-self.tiles * self.isa.table_read.rows // self._block)
        spans = -(-blocks * self._block // _SPANS[self.x_dtype])
        return -(-blocks // spans) * self._block

    @property
    def _block(self) -> int:
        """Rows walked together: whole vectors and whole tiles."""
        return max(self.isa.tree.rows, self.isa.table_read.rows)

    def _spans(self, x, leaves, scale, starts, thresholds, codes, value: str) -> None:
        read, columns, batch = self.isa.table_read, self.columns, self.patches.batch
        padded = self.tiles * read.rows
        spans = -(-padded // self._span)
        elements = batch * padded * self.codebooks * self.levels
        over = T.parallel if worth_threads(elements * _NS_PER_ELEMENT) and batch * spans > 1 else T.serial
        with over(0, batch * spans) as task:
            b, first = T.Bind(task // spans), T.Bind(task % spans * self._span)
            size = (read.group * self.levels, columns.length)
            values = T.alloc_buffer(size, value)
            raw = T.alloc_buffer(size, "float32") if self.quantizes else values
            with T.serial(0, self.codebooks // read.group) as group:
                self._collect(x, starts, b, first, group, raw)
                if scale is not None:
                    with T.serial(0, read.group) as j, T.serial(0, self.levels) as level:
                        self._quantize(raw, scale[group * read.group + j], values, j * self.levels + level)
                blocks = T.min(T.int32(self._span), T.int32(padded) - first)
                with T.serial(0, (blocks + (self._block - 1)) // self._block) as block:
                    self._walk(values, leaves, thresholds, codes, b, group, first, block)

    def _collect(self, x, starts, b, first, group, out) -> None:
        """The columns of a group's codebooks, level by level of each."""
        count, levels = self.isa.table_read.group, self.levels
        if not self.patches.is_conv:
            places = [starts[group * count + j, level] for j in range(count) for level in range(levels)]
            self.columns.collect_rows(x, first, places, out)
            return
        with T.serial(0, count) as j, T.serial(0, levels) as level:
            start = T.Bind(starts[group * count + j, level])
            self.columns.collect_image(x, b, first, start, out, j * levels + level)

    def _quantize(self, raw, scale: Expr, out, column: Expr) -> None:
        columns = self.columns
        with T.serial(0, self._span // _LANES) as n:
            place = T.ramp(columns.margin + n * _LANES, 1, _LANES)
            T.buffer_store(out, self.search.quantize(raw[column, place], scale, "int8", _LANES), [column, place])

    def _walk(self, values, leaves, thresholds, codes, b, group, first, block) -> None:
        """The codes of a block of rows and a group of codebooks."""
        read, tree, levels = self.isa.table_read, self.isa.tree, self.levels
        at = self.columns.margin + block * self._block
        tile = T.Bind((first + block * self._block) // read.rows)
        integer = self.search.encode_dtype == "int8"
        if not tree.shuffle:
            with T.serial(0, self._block) as n:
                code = walk_one(lambda level: values[level, at + n], levels, thresholds, leaves, group, integer)
                T.buffer_store(codes, code, [b, tile, group, n])
            return
        found = []
        for j in range(read.group):
            c = group * read.group + j
            if integer:

                def load(level: int, j: int = j) -> Expr:
                    return values.vload([j * levels + level, at], f"int8x{tree.rows}")

                found.append(walk_bytes(load, levels, thresholds, leaves, c, tree))
            else:

                def load_part(level: int, part: int, j: int = j) -> Expr:
                    lanes = tree.float_rows
                    return values.vload([j * levels + level, at + part * lanes], f"float32x{lanes}")

                found.append(walk_floats(load_part, levels, thresholds, leaves, c, tree))
        store_tiles(found, self._block, read, self.tiles, codes, b, tile, group)
