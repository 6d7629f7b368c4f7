"""Where a kernel's activations come from, where they go in the plane of levels, and what is written around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from tvm_ext.compute.level_vectors import splat
from tvm_ext.compute.product import Plane


@dataclass(frozen=True, eq=False)
class LevelsInput:
    """float32 values and where they go: [batch, channels, height, width] at (top, left) of a plane, or the same with
    channels last; the rows of a matrix are the width of one image of height 1, channels last."""

    batch: int
    channels: int
    height: int
    width: int
    top: int = 0
    left: int = 0
    channels_last: bool = False
    is_matrix: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        if self.is_matrix:
            return (self.width, self.channels)
        if self.channels_last:
            return (self.batch, self.height, self.width, self.channels)
        return (self.batch, self.channels, self.height, self.width)


def fill_border(source: LevelsInput, plane: Plane, out, dtype: str, pad: int) -> None:
    """All of the plane around the source: above and below it whole rows, beside it runs."""
    row = plane.width * plane.channels
    right = plane.width - source.left - source.width
    below = plane.height - source.top - source.height
    spans = [(0, source.top * row), ((source.top + source.height) * row, below * row)]
    beside = [
        (0, source.left * plane.channels),
        ((source.left + source.width) * plane.channels, right * plane.channels),
    ]
    if not any(size for _, size in spans + beside):
        return
    runs = _Runs(source.channels, plane.channels, out, dtype, pad)
    with T.serial(source.batch) as b:
        for first, size in spans:
            runs.fill(b, first, size)
        if any(size for _, size in beside):
            with T.serial(source.height) as h:
                for first, size in beside:
                    runs.fill(b, (h + source.top) * row + first, size)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Pixels of `pad` in each of `channels`, and zero in those that pad them."""

    channels: int
    padded: int
    out: Any
    dtype: str
    pad: int

    def fill(self, b, first, size: int) -> None:
        """`size` elements from `first` of an image of the plane on."""
        if not size:
            return
        if self.pad and self.channels < self.padded:
            with T.serial(size // self.padded) as s, T.serial(self.padded) as c:
                value = T.Select(c < self.channels, T.int32(self.pad), T.int32(0))
                T.buffer_store(self.out, T.Cast(self.dtype, value), [b, 0, 0, first + s * self.padded + c])
            return
        lanes = next(n for n in (64, 16, 4, 1) if size % n == 0)
        with T.serial(size // lanes) as s:
            value = splat(T.Cast(self.dtype, T.int32(self.pad)), lanes)
            at = first + s * lanes
            T.buffer_store(self.out, value, [b, 0, 0, T.ramp(at, 1, lanes) if lanes > 1 else at])
