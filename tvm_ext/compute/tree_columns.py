"""The inputs that hash trees look at, side by side: columns of neighbouring rows, as the walk loads them."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.plane_layout import MARGIN, PlaneLayout

_PIECES = (64, 32, 16, 8)
"""Bytes that are copied at a time, largest first."""


@dataclass(frozen=True)
class Columns:
    """Columns of `span` rows: the element that the nodes of a level look at, of every row.

    Parameters
    ----------
    patches : the rows; those of a conv are read from its plane.
    dtype : of x.
    span : rows that are collected together.
    plane_size : elements of a channel's plane, for a conv.
    """

    patches: Patches
    dtype: str
    span: int
    plane_size: int = 0

    @property
    def margin(self) -> int:
        """Elements in front of a column's first row, where a row of the image may begin that it is in the middle of."""
        return -(-self.patches.output_size[1] // 64) * 64 if self.patches.is_conv else 0

    @property
    def length(self) -> int:
        """Elements of a column with what is written around it."""
        if not self.patches.is_conv:
            return self.span
        width = self.patches.output_size[1]
        return self.margin + -(-(self._image_rows * width + self._piece) // 64) * 64

    def start(self, d) -> int:
        """Where element d of the first row lies: in a row of x, or in an image's planes."""
        if not self.patches.is_conv:
            return d
        (kh, kw), (dilation_h, dilation_w) = self.patches.kernel, self.patches.dilations
        within = self._layout.row(d % (kh * kw) // kw * dilation_h) + d % kw * dilation_w
        return d // (kh * kw) * self.plane_size + within

    def collect_rows(self, x, first: Expr, starts: list[Expr], out) -> None:
        """Emit code that fills column i of out with element starts[i] of rows first, first + 1, ... of a matrix.

        Row by row: the elements of neighbouring codebooks lie close together, those of neighbouring rows do not.
        """
        last = T.int32(self.patches.rows - 1)
        with T.serial(0, self.span) as n:
            row = T.Bind(T.min(first + n, last))
            for i, start in enumerate(starts):
                T.buffer_store(out, x[row, start], [i, n])

    def collect_image(self, x, b: Expr, first: Expr, start: Expr, out, column: Expr) -> None:
        """Emit code that fills a column of out from `margin` on with the elements that positions first, first + 1, ...
        of image b see at `start`.

        Row by row of the output: each piece overwrites what the one before it wrote too far.
        """
        at = [column]
        height, width = self.patches.output_size
        channel, within = T.Bind(start // self.plane_size), T.Bind(start % self.plane_size)
        top = T.Bind(first // width)
        with T.serial(0, self._image_rows) as r:
            line = within + T.min(top + r, T.int32(height - 1)) * self._layout.pitch
            place = self.margin + (top + r) * width - first
            if self._step > 2:
                with T.serial(0, width) as w:
                    T.buffer_store(out, x[b, channel, line + w * self._step], [*at, place + w])
                return
            for w in range(0, width, self._piece):
                source = x.vload([b, channel, line + w * self._step], f"{self.dtype}x{self._piece * self._step}")
                if self._step == 2:
                    source = T.Shuffle([source], list(range(0, 2 * self._piece, 2)))
                T.buffer_store(out, source, [*at, T.ramp(place + w, 1, self._piece)])

    @property
    def least_plane(self) -> int:
        """Elements that a channel's plane needs, with what is read behind the last row; a multiple of 64."""
        (kh, kw), (dilation_h, dilation_w) = self.patches.kernel, self.patches.dilations
        (height, width), layout = self.patches.output_size, self._layout
        last = (height - 1) * layout.pitch + max(layout.row(i * dilation_h) for i in range(kh)) + (kw - 1) * dilation_w
        read = -(-width // self._piece) * self._piece * self._step
        return -(-max(layout.elements + MARGIN, last + read) // 64) * 64

    @property
    def _piece(self) -> int:
        """Elements copied at a time: few copies, and few elements copied in vain."""
        width, size = self.patches.output_size[1], 4 if self.dtype == "float32" else 1
        pieces = [piece // size for piece in _PIECES]
        return min(pieces, key=lambda piece: (-(-width // piece), piece))

    @property
    def _image_rows(self) -> int:
        """Rows of the output that hold `span` rows, wherever those begin."""
        width = self.patches.output_size[1]
        return -(-(self.span + width - 1) // width)

    @property
    def _layout(self) -> PlaneLayout:
        return PlaneLayout.of(self.patches)

    @property
    def _step(self) -> int:
        """Elements of the plane between neighbouring positions."""
        return self.patches.strides[1] // self._layout.column_step
