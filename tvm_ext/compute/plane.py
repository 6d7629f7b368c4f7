"""The input of a conv with its zero border, quantized once for all the windows that read it."""

from __future__ import annotations

import math

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.threads import worth_threads

_LANES, _COPY_LANES = 16, 64
_CLEAR = 64
_NS_PER_ELEMENT = 0.1


def plane_kernel(patches: Patches, search: Search, size: int, dtype: str, *, quantize: bool) -> PrimFunc:
    """x [B, C, H, W] (, inv_scale float32 [C]) -> plane `dtype` [B, C, size]; `size` is a multiple of 64.

    With `quantize`, x is float32 and becomes ``clip(round_half_even(x * inv_scale[channel])) + zero_point``; else x is
    what the plane holds. The border, and whatever follows the last row, is the zero point.
    """
    return (_quantize if quantize else _copy)(patches, search, size, dtype)


def _quantize(patches: Patches, search: Search, size: int, dtype: str) -> PrimFunc:
    batch, channels, height, width = patches.shape
    (top, left), pitch, over_channels = patches.pads[:2], patches.plane_shape[3], _channel_loop(patches)
    chunks, tail = width // _LANES, width % _LANES

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((batch, channels, height, width), "float32"),
        inv_scale: T.Buffer((channels,), "float32"),
        plane: T.Buffer((batch, channels, size), dtype),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("plane"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(x[0:batch, 0:channels, 0:height, 0:width])
            T.writes(plane[0:batch, 0:channels, 0:size])
            for image in over_channels(batch * channels):
                b: T.let = image // channels
                c: T.let = image % channels
                for p in T.serial(size // _CLEAR):
                    plane[b, c, T.ramp(p * _CLEAR, 1, _CLEAR)] = T.broadcast(T.cast(search.zero_point, dtype), _CLEAR)
                for h in T.serial(height):
                    for w in T.serial(chunks):
                        plane[b, c, T.ramp((h + top) * pitch + left + w * _LANES, 1, _LANES)] = search.quantize_vector(
                            x[b, c, h, T.ramp(w * _LANES, 1, _LANES)], inv_scale[c], dtype, _LANES
                        )
                    if tail > 1:
                        plane[b, c, T.ramp((h + top) * pitch + left + chunks * _LANES, 1, tail)] = (
                            search.quantize_vector(
                                x[b, c, h, T.ramp(chunks * _LANES, 1, tail)], inv_scale[c], dtype, tail
                            )
                        )
                    if tail == 1:
                        plane[b, c, (h + top) * pitch + left + width - 1] = search.quantize(
                            x[b, c, h, width - 1], inv_scale[c], dtype
                        )

    return kernel


def _copy(patches: Patches, search: Search, size: int, dtype: str) -> PrimFunc:
    batch, channels, height, width = patches.shape
    (top, left), pitch, over_channels = patches.pads[:2], patches.plane_shape[3], _channel_loop(patches)
    chunks, tail = width // _COPY_LANES, width % _COPY_LANES

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((batch, channels, height, width), dtype), plane: T.Buffer((batch, channels, size), dtype)):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("plane"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(x[0:batch, 0:channels, 0:height, 0:width])
            T.writes(plane[0:batch, 0:channels, 0:size])
            for image in over_channels(batch * channels):
                b: T.let = image // channels
                c: T.let = image % channels
                for p in T.serial(size // _CLEAR):
                    plane[b, c, T.ramp(p * _CLEAR, 1, _CLEAR)] = T.broadcast(T.cast(search.zero_point, dtype), _CLEAR)
                for h in T.serial(height):
                    for w in T.serial(chunks):
                        plane[b, c, T.ramp((h + top) * pitch + left + w * _COPY_LANES, 1, _COPY_LANES)] = x[
                            b, c, h, T.ramp(w * _COPY_LANES, 1, _COPY_LANES)
                        ]
                    if tail > 1:
                        plane[b, c, T.ramp((h + top) * pitch + left + chunks * _COPY_LANES, 1, tail)] = x[
                            b, c, h, T.ramp(chunks * _COPY_LANES, 1, tail)
                        ]
                    if tail == 1:
                        plane[b, c, (h + top) * pitch + left + width - 1] = x[b, c, h, width - 1]

    return kernel


def _channel_loop(patches: Patches):
    return T.parallel if worth_threads(math.prod(patches.shape) * _NS_PER_ELEMENT) else T.serial
