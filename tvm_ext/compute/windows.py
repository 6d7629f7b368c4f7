"""Windows of a conv's bordered plane: where positions find their pixels, and how pixels are grouped for dot products.

A step is one dot-product instruction a vector of positions: `depth` elements of a subvector. Where steps follow kernel
rows, the elements that 16 consecutive positions need for a step lie close behind the first position's, and which of
them each lane takes repeats with a period, because positions walk along the rows of the plane: one permutation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from tvm_ext.compute.patches import Patches

LANES = 16


@dataclass(frozen=True)
class Windows:
    """Geometry of a conv over its plane, for subvectors of whole channels.

    Parameters
    ----------
    patches : the conv.
    length : V, elements of a subvector; a multiple of the taps of a channel.
    depth : elements a step covers.
    positions : rows of an image that are encoded, padding included.
    """

    patches: Patches
    length: int
    depth: int
    positions: int

    @property
    def pitch(self) -> int:
        """Elements between rows of the plane."""
        return self.patches.plane_shape[3]

    def plane_size(self, span: int) -> int:
        """Elements of a channel's plane, with room behind it for `span` elements from any padding position."""
        (kernel_h, _), (dilation_h, dilation_w) = self.patches.kernel, self.patches.dilations
        last = self.offset(self.positions - 1) + (kernel_h - 1) * dilation_h * self.pitch
        last += (self._row_steps - 1) * self.depth * dilation_w
        size = max(self.patches.plane_shape[2] * self.pitch, last + span)
        return -(-size // 64) * 64

    def offset(self, n):
        """Where position n starts in the plane; works on ints and expressions."""
        out_w, (stride_h, stride_w) = self.patches.output_size[1], self.patches.strides
        return n // out_w * (stride_h * self.pitch) + n % out_w * stride_w

    @property
    def aligned(self) -> bool:
        """Whether steps follow kernel rows, at no more than one step in three wasted."""
        rows = self.length // self.patches.taps * self.patches.kernel[0]
        return rows * self._row_steps * self.depth * 2 <= -(-self.length // self.depth) * self.depth * 3

    @property
    def _row_steps(self) -> int:
        return -(-self.patches.kernel[1] // self.depth)

    def slots(self) -> np.ndarray:
        """int [T, depth]: the element of the subvector each slot of each step holds, -1 for padding."""
        if not self.aligned:
            return linear_slots(self.length, self.depth)
        rows, width = self.length // self.patches.kernel[1], self.patches.kernel[1]
        slots = np.full((rows, self._row_steps * self.depth), -1)
        slots[:, :width] = np.arange(self.length).reshape(rows, width)
        return slots.reshape(-1, self.depth)

    def origin(self, step) -> tuple:
        """(channel within the subvector, elements behind the block's first position) where an aligned step starts."""
        (kernel_h, _), (dilation_h, dilation_w) = self.patches.kernel, self.patches.dilations
        row, part = step // self._row_steps, step % self._row_steps
        return row // kernel_h, row % kernel_h * (dilation_h * self.pitch) + part * (self.depth * dilation_w)

    def element(self, n, v) -> tuple:
        """(channel within the subvector, elements from the plane's start) of element v at position n."""
        (_, width), taps, (dilation_h, dilation_w) = self.patches.kernel, self.patches.taps, self.patches.dilations
        within = v % taps // width * (dilation_h * self.pitch) + v % width * dilation_w
        return v // taps, self.offset(n) + within

    def channel(self, codebook, within):
        """The channel `within` a codebook's subvector; the last one behind the end (centroids are zero there)."""
        per_codebook, channels = self.length // self.patches.taps, self.patches.shape[1]
        channel = codebook * per_codebook + within
        return channel if channels % per_codebook == 0 else tirx.min(channel, tirx.const(channels - 1, "int32"))

    def pattern(self) -> np.ndarray:
        """int [period, LANES, depth]: which element of its window each slot of each position of a block takes."""
        out_w = self.patches.output_size[1]
        first = np.arange(out_w // math.gcd(out_w, LANES))[:, None] * LANES
        starts = self.offset(first + np.arange(LANES)) - self.offset(first)
        taps = np.minimum(np.arange(self.depth), self.patches.kernel[1] - 1) * self.patches.dilations[1]
        return starts[:, :, None] + taps

    def fits(self, span: int) -> bool:
        """Whether every window of an aligned step stays within `span` elements."""
        return self.aligned and int(self.pattern().max()) < span


def linear_slots(length: int, depth: int) -> np.ndarray:
    """int [ceil(length / depth), depth]: elements in their order, -1 behind the last."""
    steps = -(-length // depth)
    slots = np.arange(steps * depth)
    slots[length:] = -1
    return slots.reshape(steps, depth)
