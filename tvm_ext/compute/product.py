"""Layers over integer levels: where their operands lie, and how a kernel walks them. Dense is a 1x1 conv of one row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tvm_ext.compute.patches import Patches
from tvm_ext.tensor_intrin.product_steps import ProductSteps

_STRIP = 512
"""Positions from which on a part of an image is worth decoding the weights again, for threads to share the work."""
_GROUP = 128
"""Positions whose results are collected before they are transposed to feature-major."""
_ALLOCATED = 1024
"""Bytes of sums from which on TVM gets their memory by a call."""
FEW_ROWS = 4
"""Rows up to which weights are decoded as they are used, not once in advance."""


@dataclass(frozen=True)
class Plane:
    """Integer levels of an image with its border: [batch, height, width, channels], channels innermost.

    Rows of a dense layer are the width of one image of height 1. Channels are padded with stored zeros, whatever their
    weights; what pads the width belongs to results that are dropped. Kernels may read on behind a window's row, into
    what follows it in memory, with weights of zero.
    """

    batch: int
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.height, self.width, self.channels)


@dataclass(frozen=True)
class ProductLayer:
    """One conv or dense layer as sums of products.

    Parameters
    ----------
    patches : its rows; `depth` of a patch here is in the order (tap row, tap column, channel).
    outputs : M.
    steps : how products are summed.
    bits : a stored weight has, 2 or 4 (a code of its palette), 8 or 16 (the integer itself).
    rows, vectors : the register tile: positions of one image row x vectors of outputs.
    """

    patches: Patches
    outputs: int
    steps: ProductSteps
    bits: int
    rows: int
    vectors: int

    @property
    def batch(self) -> int:
        return self.patches.batch

    @property
    def output_size(self) -> tuple[int, int]:
        return self.patches.output_size if self.patches.is_conv else (1, self.patches.rows)

    @property
    def inputs(self) -> int:
        """Channels, or features of a dense layer."""
        return self.patches.shape[1]

    @property
    def plane(self) -> Plane:
        """The levels that the kernel reads, for whole tiles."""
        p = self.patches
        align = 16 if not p.is_conv else 1 if self.runs else 4
        channels = -(-self.inputs // align) * align
        if not p.is_conv:
            return Plane(1, 1, self.tiled_width, channels)
        window = (p.kernel[1] - 1) * p.dilations[1] + 1
        window = -(-self.channel_steps * self.steps.depth // channels) if self.runs else window
        reach = (self.tiled_width - 1) * p.strides[1] + window
        return Plane(p.batch, p.plane_shape[2], max(p.plane_shape[3], reach), channels)

    @property
    def tiled_width(self) -> int:
        """Width of the output in whole tiles."""
        return -(-self.output_size[1] // self.rows) * self.rows

    @property
    def block(self) -> int:
        """Outputs of a tile."""
        return self.vectors * self.steps.product.lanes

    @property
    def blocks(self) -> int:
        return -(-self.outputs // self.block)

    @property
    def runs(self) -> bool:
        """Whether a step covers bytes of neighbouring pixels: so steps of images with few channels are not half empty.

        A tap is then a whole row of the window.
        """
        p = self.patches
        few = p.is_conv and not self.steps.word and self.inputs < self.steps.depth and p.dilations[1] == 1
        return few and -(-p.kernel[1] * self.inputs // self.steps.depth) < p.kernel[1]

    @property
    def taps(self) -> int:
        return self.patches.kernel[0] if self.runs else self.patches.taps

    @property
    def channel_steps(self) -> int:
        """Steps over the channels of one tap."""
        if self.runs:
            return -(-self.patches.kernel[1] * self.inputs // self.steps.depth)
        return self.plane.channels // self.steps.depth

    @property
    def num_steps(self) -> int:
        return self.taps * self.channel_steps

    @property
    def packing(self) -> int:
        """Steps whose weights one stored vector holds."""
        return max(1, 8 // self.bits)

    @property
    def decoded_in_place(self) -> bool:
        """Weights are decoded as they are used: they are read too seldom to be decoded in advance."""
        return self.bits < 8 and not self.patches.is_conv and self.patches.rows <= FEW_ROWS

    @property
    def weight_shape(self) -> tuple[int, int]:
        """[blocks, elements of a block]"""
        stored = -(-self.num_steps // self.packing) * self.vectors * self.steps.product.bytes
        return self.blocks, stored // (2 if self.bits == 16 else 1)

    @property
    def weight_dtype(self) -> str:
        return {16: "int16", 8: "int8"}.get(self.bits, "uint8")

    @property
    def group(self) -> int:
        """Image rows whose results are collected before they are transposed."""
        height, width = self.output_size
        sizes = range(1, max(1, min(height, _GROUP // width)) + 1)
        # rows of a last group that begins early are computed twice; a short group makes ragged squares
        return min(sizes, key=lambda g: -(-height // g) * g * (1 + 8 / (g * width)))

    @property
    def groups(self) -> int:
        """Of an image; the last one may begin early."""
        return -(-self.output_size[0] // self.group)

    @property
    def strips(self) -> int:
        """Parts of an image that threads can work on, each of whole groups."""
        height, width = self.output_size
        most = max(1, height * width // _STRIP)
        return next(n for n in range(min(most, self.groups), 0, -1) if self.groups % n == 0)


def product_layer(patches: Patches, outputs: int, steps: ProductSteps, bits: int) -> ProductLayer:
    """The layer with the register tile that does least work for its shape."""
    layer = ProductLayer(patches, outputs, steps, bits, 1, 1)
    width, lanes = layer.output_size[1], steps.product.lanes
    if layer.decoded_in_place:
        vectors = max(1, min(steps.tiles // (2 * patches.rows), -(-outputs // lanes)))
        return replace(layer, rows=patches.rows, vectors=_largest(vectors, -(-outputs // lanes)))

    def cost(rows: int, vectors: int) -> tuple[float, int]:
        padded = (-(-width // rows) * rows / width) * (-(-outputs // (vectors * lanes)) * vectors * lanes / outputs)
        # loads wait for a port beside one or two products; a whole vector of weights costs more than a dword of levels
        loads = 0.5 * (0.5 * rows + 1.5 * vectors) / (rows * vectors)
        few = max(1.0, min(8, steps.tiles) / (rows * vectors))  # too few sums wait for each other
        called = 1.02 if rows * vectors * steps.acc_bytes >= _ALLOCATED else 1.0
        return round(padded * few * called * (1 + loads), 6), vectors

    shapes = [(r, q) for q in (1, 2, 3, 4) for r in range(1, 17) if r * q <= steps.tiles]
    rows, vectors = min(shapes, key=lambda shape: cost(*shape))
    return replace(layer, rows=rows, vectors=vectors)


def _largest(most: int, whole: int) -> int:
    """The largest number up to `most` that wastes no more of `whole` than one does, or `most`."""
    return next((n for n in range(most, 0, -1) if whole % n == 0 and 2 * n > most), most)


def pack_weight(layer: ProductLayer, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(stored weights, palette int8 [16] or None) of weight int8 or int16 [M, D], or [M, channels, kh, kw]."""
    steps, product = layer.steps, layer.steps.product
    m = len(weight)
    taps = weight.reshape(m, layer.inputs, layer.patches.taps).transpose(0, 2, 1).reshape(m, layer.taps, -1)
    full = np.zeros((layer.blocks * layer.block, layer.taps, layer.channel_steps * steps.depth), np.int32)
    full[:m, :, : taps.shape[2]] = taps
    # [block, vector, lane, step, depth] -> [block, step, vector, lane, depth]
    tiled = full.reshape(layer.blocks, layer.vectors, product.lanes, layer.num_steps, steps.depth)
    tiled = tiled.transpose(0, 3, 1, 2, 4).reshape(layer.blocks, layer.num_steps, layer.vectors, -1)
    if layer.bits >= 8:
        return np.ascontiguousarray(tiled.reshape(layer.weight_shape).astype(layer.weight_dtype)), None
    values = np.unique(weight)
    codes = np.minimum(np.searchsorted(values, tiled), len(values) - 1).astype(np.uint8)  # padding: any code
    missing = -layer.num_steps % layer.packing
    codes = np.pad(codes, ((0, 0), (0, missing), (0, 0), (0, 0)))
    codes = codes.reshape(layer.blocks, -1, layer.packing, layer.vectors, product.bytes)
    packed = np.zeros((*codes.shape[:2], *codes.shape[3:]), np.uint8)
    for part in range(layer.packing):
        packed |= codes[:, :, part] << (layer.bits * part)
    palette = np.zeros(16, np.int8)
    palette[: len(values)] = values
    return np.ascontiguousarray(packed.reshape(layer.weight_shape)), palette


def weight_bits(weight: np.ndarray, steps: ProductSteps) -> int:
    """Bits of a stored weight: of its code where the ISA reads tables and the palette is small, else of itself."""
    if steps.word:
        return 16
    count = len(np.unique(weight))
    if not steps.product.shuffle or count > 16:
        return 8
    return 2 if count <= 4 else 4


def pad_outputs(layer: ProductLayer, values: np.ndarray) -> np.ndarray:
    """[M] with zeros up to whole tiles."""
    return np.pad(values, (0, layer.blocks * layer.block - len(values)))
