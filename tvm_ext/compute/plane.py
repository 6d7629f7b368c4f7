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

    With `quantize`, x is float32 and becomes ``clip(round_half_even(x * inv_scale[channel])) + zero_point``; else x is
    what the plane holds. The border is the zero point; what follows the last row is unspecified.

    Rows are written in the order in which they lie in the plane, as whole vectors: what a vector spoils behind the end
    of its row is made border again, or written later.
    """
    layout, (batch, channels, height, width) = PlaneLayout.of(patches), patches.shape
    top, left = layout.pads[:2]
    step, skip = layout.column_step, layout.row_step
    chunks, tail = -(-layout.columns // _LANES), layout.columns % _LANES
    read = chunks * _LANES * step  # elements of x from a row's first to behind the last that its vectors load
    border = T.broadcast(T.cast(search.zero_point, dtype), _LANES)
    bordered = any(layout.pads)
    clears = size // _CLEAR if bordered else 0
    over_channels = T.parallel if worth_threads(math.prod(patches.shape) / step * _NS_PER_ELEMENT) else T.serial

    def stored(value, scale, lanes: int = 1):
        return search.quantize(value, scale, dtype, lanes) if quantize else value

    def vector(x, b, c, h, w):
        """Sixteen pixels of a row, from the one of column w on."""
        if step != 2:
            return x[b, c, h, T.ramp(w * step, step, _LANES)]
        parts = [x[b, c, h, T.ramp(w * 2 + i * _LANES, 1, _LANES)] for i in range(2)]
        return T.Shuffle(parts, list(range(0, 2 * _LANES, 2)))

    def emit_row(x, inv_scale, plane, b, c, h, start) -> None:
        """Row h of an image to the plane at `start`."""
        scale = inv_scale[c] if quantize else None
        with T.If(((b * channels + c) * height + h) * width + read <= batch * channels * height * width):
            with T.Then():
                with T.serial(chunks) as w:
                    pixels = stored(vector(x, b, c, h, w * _LANES), scale, _LANES)
                    T.buffer_store(plane, pixels, [b, c, T.ramp(start + w * _LANES, 1, _LANES)])
                if tail and bordered:
                    T.buffer_store(plane, border, [b, c, T.ramp(start + layout.columns, 1, _LANES)])
            # the last rows of x: vectors would read beyond its end
            with T.Else(), T.serial(layout.columns) as w:
                T.buffer_store(plane, stored(x[b, c, h, w * step], scale), [b, c, start + w])

    def emit(x, inv_scale, plane) -> None:
        with over_channels(batch * channels) as image:
            b, c = T.Bind(image // channels), T.Bind(image % channels)
            if clears:
                with T.serial(clears) as p:
                    for i in range(_CLEAR // _LANES):
                        T.buffer_store(plane, border, [b, c, T.ramp(p * _CLEAR + i * _LANES, 1, _LANES)])
            with T.grid(layout.phases, layout.phase_rows) as (phase, i):
                h = i * skip + phase - top
                with T.If(T.And(h >= 0, h < height)), T.Then():
                    emit_row(x, inv_scale, plane, b, c, h, (phase * layout.phase_rows + i) * layout.pitch + left)

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
