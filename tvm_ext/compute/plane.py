"""The input of a conv with its zero border, quantized once for all the windows that read it."""

from __future__ import annotations

import math

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.plane_layout import PlaneLayout
from tvm_ext.compute.search import Search
from tvm_ext.threads import worth_threads

_LANES = 16
_CLEAR = 64
_NS_PER_ELEMENT = 0.1


def plane_kernel(patches: Patches, search: Search, size: int, dtype: str, *, quantize: bool) -> PrimFunc:
    """x [B, C, H, W] (, inv_scale float32 [C]) -> plane `dtype` [B, C, size]; `size` is a multiple of 64.

    With `quantize`, x is float32 and becomes ``clip(round_half_even(x * inv_scale[channel]))`` on the search's grid, +
    zero_point; else x is what the plane holds. The border is the zero point; what follows the last row is unspecified.

    Rows are written in the order in which they lie in the plane, as whole vectors: what a vector spoils behind the end
    of its row is made border again, or written later.
    """
    layout, (batch, channels, height, width) = PlaneLayout.of(patches), patches.shape
    top, left = layout.pads[:2]
    step, skip = layout.column_step, layout.row_step
    lanes = _LANES if layout.columns > _LANES // 2 else _LANES // 2
    chunks, tail = -(-layout.columns // lanes), layout.columns % lanes
    read = chunks * lanes * step  # elements of x from a row's first to behind the last that its vectors load
    border = T.broadcast(T.cast(search.zero_point, dtype), lanes)
    bordered = any(layout.pads)
    clears = size // _CLEAR if bordered else 0
    over_channels = T.parallel if worth_threads(math.prod(patches.shape) / step * _NS_PER_ELEMENT) else T.serial

    def stored(value, scale, lanes: int = 1):
        return search.quantize(value, scale, dtype, lanes) if quantize else value

    def vector(x, b, c, h, w):
        """Pixels of a row, from the one of column w on."""
        if step != 2:
            return x[b, c, h, T.ramp(w * step, step, lanes)]
        parts = [x[b, c, h, T.ramp(w * 2 + i * lanes, 1, lanes)] for i in range(2)]
        return T.Shuffle(parts, list(range(0, 2 * lanes, 2)))

    def emit_row(x, inv_scale, plane, b, c, h, start) -> None:
        """Row h of an image to the plane at `start`, by vectors."""
        scale = inv_scale[c] if quantize else None
        with T.serial(chunks) as w:
            pixels = stored(vector(x, b, c, h, w * lanes), scale, lanes)
            T.buffer_store(plane, pixels, [b, c, T.ramp(start + w * lanes, 1, lanes)])
        if tail and bordered:
            T.buffer_store(plane, border, [b, c, T.ramp(start + layout.columns, 1, lanes)])

    def emit_pixels(x, inv_scale, plane, b, c, h, start) -> None:
        """The same one by one, for the last rows of x: vectors would read beyond its end."""
        scale = inv_scale[c] if quantize else None
        with T.serial(layout.columns) as w:
            T.buffer_store(plane, stored(x[b, c, h, w * step], scale), [b, c, start + w])

    def emit_rows(emit_one, *where) -> None:
        """The rows of an image, in the order in which they lie in its plane."""
        for phase in range(layout.phases):
            before = -(-max(top - phase, 0) // skip)  # rows of the border
            count = -(-(height + top - phase) // skip) - before
            if count > 0:
                with T.serial(count) as i:
                    at = (phase * layout.phase_rows + before + i) * layout.pitch + left
                    emit_one(*where, (before + i) * skip + phase - top, at)

    def emit(x, inv_scale, plane) -> None:
        with over_channels(batch * channels) as image:
            b, c = T.Bind(image // channels), T.Bind(image % channels)
            if clears:
                with T.serial(clears) as p:
                    for i in range(_CLEAR // lanes):
                        T.buffer_store(plane, border, [b, c, T.ramp(p * _CLEAR + i * lanes, 1, lanes)])
            if height == 0 or width == 0:
                return
            behind = -(-(read - width) // (height * width))  # images that what is read behind a last row may need
            if behind == 0:
                emit_rows(emit_row, x, inv_scale, plane, b, c)
                return
            with T.If(image < batch * channels - behind):
                with T.Then():
                    emit_rows(emit_row, x, inv_scale, plane, b, c)
                with T.Else():
                    emit_rows(emit_pixels, x, inv_scale, plane, b, c)

    if not quantize:

        @T.prim_func(s_tir=True)
        def copying(
            x: T.Buffer((batch, channels, height, width), dtype), plane: T.Buffer((batch, channels, size), dtype)
        ):
            T.func_attr({"tirx.noalias": True})
            with T.sblock("plane"):  # one block: some Relax passes ask what blocks a PrimFunc has
                T.reads(x[0:batch, 0:channels, 0:height, 0:width])
                T.writes(plane[0:batch, 0:channels, 0:size])
                emit(x, None, plane)

        return copying

    @T.prim_func(s_tir=True)
    def quantizing(
        x: T.Buffer((batch, channels, height, width), "float32"),
        inv_scale: T.Buffer((channels,), "float32"),
        plane: T.Buffer((batch, channels, size), dtype),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("plane"):
            T.reads(x[0:batch, 0:channels, 0:height, 0:width])
            T.writes(plane[0:batch, 0:channels, 0:size])
            emit(x, inv_scale, plane)

    return quantizing
