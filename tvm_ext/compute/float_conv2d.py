"""Float convolutions with weights packed for register tiles: what they mean, as TE, and the layout of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from tvm_ext.compute.register_tile import RegisterTile, VectorUnit, choose_tile

ACC, OUT, PAD = "float_acc", "float_out", "float_pad"
"""Names of the blocks: the sums of a tile, the result, and the input with its zero border."""


@dataclass(frozen=True)
class Conv2d:
    """A convolution: x [batch, height, width, channels], weight [outputs, channels / groups, *kernel].

    pads : top, left, bottom, right.
    """

    batch: int
    channels: int
    size: tuple[int, int]
    outputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        height, width = (
            (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
            for size, begin, end, dilation, kernel, stride in zip(
                self.size, self.pads[:2], self.pads[2:], self.dilations, self.kernel, self.strides, strict=True
            )
        )
        return height, width

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels == self.outputs

    def tile(self, unit: VectorUnit, layout: str = "NHWC") -> RegisterTile:
        """Outputs of one group; channels where every channel is a group. Channels first, a line of the kernel is the
        innermost sum."""
        outputs = self.outputs if self.depthwise else self.outputs // self.groups
        inner = 1 if self.depthwise else self.channels // self.groups
        depth = inner * self.kernel[0] * self.kernel[1]
        return choose_tile(unit, *self.out_size, outputs, depth, on_stack=layout == "NCHW")

    def pack(self, weight: np.ndarray, tile: RegisterTile) -> np.ndarray:
        """weight [outputs, channels / groups, kh, kw] -> [groups, blocks, kh, kw, channels / groups, tile.outputs].

        Outputs are padded to whole blocks with zeros. Depthwise: [blocks, kh, kw, tile.outputs].
        """
        if self.depthwise:
            return pad_outputs(weight[:, 0], tile.outputs).transpose(0, 2, 3, 1).copy()
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        blocks = np.stack([pad_outputs(group, tile.outputs) for group in grouped])
        return np.ascontiguousarray(blocks.transpose(0, 1, 4, 5, 3, 2))


def pad_outputs(weight: np.ndarray, block: int) -> np.ndarray:
    """[outputs, ...] -> [blocks, block, ...], the last block filled up with zeros."""
    missing = -len(weight) % block
    padded = np.pad(weight, [(0, missing)] + [(0, 0)] * (weight.ndim - 1))
    return padded.reshape(-1, block, *weight.shape[1:])


def conv2d(x: te.Tensor, weight: te.Tensor, conv: Conv2d, tile: RegisterTile, layout: str = "NHWC") -> te.Tensor:
    """y float32 [batch, oh, ow, outputs] of x in `layout` and packed weights."""
    (oh, ow), (kh, kw) = conv.out_size, conv.kernel
    high, wide = (-(-size // step) * step for size, step in ((oh, tile.height), (ow, tile.width)))
    padded = _padded(x, conv, (high, wide), layout)
    i, j = te.reduce_axis((0, kh), "i"), te.reduce_axis((0, kw), "j")

    def at(n, h, w, channel):
        y = h * conv.strides[0] + i * conv.dilations[0]
        z = w * conv.strides[1] + j * conv.dilations[1]
        return padded[n, channel, y, z] if layout == "NCHW" else padded[n, y, z, channel]

    block, inner = tile.outputs, conv.channels // conv.groups
    if conv.depthwise:
        last = conv.channels - 1
        acc = te.compute(
            (conv.batch, high, wide, weight.shape[0], block),
            lambda n, h, w, m, v: te.sum(
                at(n, h, w, tirx.min(m * block + v, last) if conv.channels % block else m * block + v)
                * weight[m, i, j, v],
                [i, j],
            ),
            name=ACC,
            attrs=_marks(tile),
        )
        return te.compute(
            (conv.batch, oh, ow, conv.outputs), lambda n, h, w, m: acc[n, h, w, m // block, m % block], name=OUT
        )
    k = te.reduce_axis((0, inner), "k")
    order = [k, i, j] if layout == "NCHW" else [i, j, k]
    outs = conv.outputs // conv.groups
    if conv.groups == 1:
        acc = te.compute(
            (conv.batch, high, wide, weight.shape[1], block),
            lambda n, h, w, m, v: te.sum(at(n, h, w, k) * weight[0, m, i, j, k, v], order),
            name=ACC,
            attrs=_marks(tile, consecutive=layout == "NHWC" and conv.dilations[1] == 1),
        )
        return te.compute(
            (conv.batch, oh, ow, conv.outputs), lambda n, h, w, m: acc[n, h, w, m // block, m % block], name=OUT
        )
    acc = te.compute(
        (conv.batch, conv.groups, high, wide, weight.shape[1], block),
        lambda n, g, h, w, m, v: te.sum(at(n, h, w, g * inner + k) * weight[g, m, i, j, k, v], order),
        name=ACC,
        attrs=_marks(tile),
    )
    return te.compute(
        (conv.batch, oh, ow, conv.outputs),
        lambda n, h, w, m: acc[n, m // outs, h, w, m % outs // block, m % outs % block],
        name=OUT,
    )


def _marks(tile: RegisterTile, *, consecutive: bool = False) -> dict:
    """consecutive : the last two reductions run over values that follow each other, like one axis."""
    marks = {"lut.tile": [tile.height, tile.width, tile.vectors, tile.lanes]}
    return marks | {"lut.consecutive": 1} if consecutive else marks


def _padded(x: te.Tensor, conv: Conv2d, outs: tuple[int, int], layout: str) -> te.Tensor:
    """x with its zero border, large enough for whole tiles; x itself if it is."""
    need = [
        (out - 1) * stride + (kernel - 1) * dilation + 1
        for out, stride, kernel, dilation in zip(outs, conv.strides, conv.kernel, conv.dilations, strict=True)
    ]
    (height, width), (top, left) = conv.size, conv.pads[:2]
    if not any(conv.pads) and need[0] <= height and need[1] <= width:
        return x

    def value(n, c, h, w):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        source = x[n, c, h - top, w - left] if layout == "NCHW" else x[n, h - top, w - left, c]
        return tirx.if_then_else(inside, source, tirx.const(0, "float32"))

    if layout == "NCHW":
        return te.compute((conv.batch, conv.channels, *need), value, name=PAD)
    return te.compute((conv.batch, *need, conv.channels), lambda n, h, w, c: value(n, c, h, w), name=PAD)
