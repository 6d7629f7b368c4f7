"""Windows of a conv's bordered plane: where positions find their pixels, and how pixels are grouped for dot products.

A step is one dot-product instruction a vector of positions: `depth` elements of a subvector. Where steps follow kernel
rows, the elements that 16 consecutive positions need for a step lie close behind the first position's, and which of
them each lane takes repeats with a period, because positions walk along the rows of the plane: one permutation.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.plane_layout import MARGIN, PlaneLayout

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

    @functools.cached_property
    def layout(self) -> PlaneLayout:
        """How the planes that the windows read are laid out."""
        return PlaneLayout.of(self.patches)

    def plane_size(self, span: int) -> int:
        """Elements of a channel's plane, with room behind it for `span` elements from any padding position."""
        (_, kernel_w), dilation_w = self.patches.kernel, self.patches.dilations[1]
        last = self.offset(self.positions - 1) + max(map(self._tap_row, range(self.patches.kernel[0])))
        last += max(kernel_w, self._row_steps * self.depth) * dilation_w
        return -(-max(self.layout.elements + MARGIN, last + span) // 64) * 64

    def offset(self, n):
        """Where position n starts in the plane; works on ints and expressions."""
        out_w, step = self.patches.output_size[1], self.patches.strides[1] // self.layout.column_step
        return n // out_w * self.layout.pitch + n % out_w * step

    def _tap_row(self, i):
        """How far behind a position's start the elements of kernel row i lie."""
        return self.layout.row(i * self.patches.dilations[0])

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
        kernel_h, dilation_w = self.patches.kernel[0], self.patches.dilations[1]
        row, part = step // self._row_steps, step % self._row_steps
        return row // kernel_h, self._tap_row(row % kernel_h) + part * (self.depth * dilation_w)

    def element(self, n, v) -> tuple:
        """(channel within the subvector, elements from the plane's start) of element v at position n."""
        width, taps, dilation_w = self.patches.kernel[1], self.patches.taps, self.patches.dilations[1]
        within = self._tap_row(v % taps // width) + v % width * dilation_w
        return v // taps, self.offset(n) + within

    def channel(self, codebook, within):
        """The channel `within` a codebook's subvector; the last one behind the end (centroids are zero there)."""
        per_codebook, channels = self.length // self.patches.taps, self.patches.shape[1]
        channel = codebook * per_codebook + within
        return channel if channels % per_codebook == 0 else tirx.min(channel, tirx.const(channels - 1, "int32"))

    def pattern(self, lanes: int = LANES) -> np.ndarray:
        """int [period, lanes, depth]: which element of its window each slot of each position of a block takes."""
        out_w = self.patches.output_size[1]
        first = np.arange(out_w // math.gcd(out_w, lanes))[:, None] * lanes
        starts = self.offset(first + np.arange(lanes)) - self.offset(first)
        taps = np.minimum(np.arange(self.depth), self.patches.kernel[1] - 1) * self.patches.dilations[1]
        return starts[:, :, None] + taps

    @property
    def interleaved(self) -> bool:
        """Whether element v of neighbouring positions are neighbours in one channel's plane, and steps whole channels.

        So it is where kernels are 1x1 and the plane has no other columns than the positions have.
        """
        out_w, channels = self.patches.output_size[1], self.patches.shape[1]
        return (
            self.patches.taps == 1
            and self.layout.pitch == out_w
            and self.layout.column_step == self.patches.strides[1]
            and self.length % self.depth == 0
            and channels % self.length == 0
        )

    def fits(self, span: int, lanes: int = LANES) -> bool:
        """Whether every window of an aligned step stays within `span` elements."""
        return self.aligned and int(self.pattern(lanes).max()) < span


def linear_slots(length: int, depth: int) -> np.ndarray:
    """int [ceil(length / depth), depth]: elements in their order, -1 behind the last."""
    steps = -(-length // depth)
    slots = np.arange(steps * depth)
    slots[length:] = -1
    return slots.reshape(steps, depth)
