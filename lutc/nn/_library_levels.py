"""torch.ops.lutc for scalar quantizers: thresholds and levels of activations, palettes of weights, for torch.export."""

from __future__ import annotations

import torch
from torch import Tensor


def codes_of(rows: Tensor, thresholds: Tensor) -> Tensor:
    """Values [G, N], thresholds [G, T] -> codes int64 [G, N]: the thresholds not above a value; 0 for NaN."""
    codes = torch.searchsorted(thresholds.contiguous(), rows.contiguous(), right=True)
    return codes.masked_fill(rows.isnan(), 0)


def to_rows(x: Tensor, axis: int | None) -> Tensor:
    """x [...] -> [G, N]: one row for axis None, else one row for each index of the axis."""
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)


def from_rows(rows: Tensor, shape: torch.Size, axis: int | None) -> Tensor:
    """The inverse of `to_rows` for a tensor of this shape."""
    if axis is None:
        return rows.reshape(shape)
    others = [size for index, size in enumerate(shape) if index != axis % len(shape)]
    return rows.reshape(shape[axis], *others).movedim(0, axis)


@torch.library.custom_op("lutc::lut_quantize", mutates_args=())
def lut_quantize(x: Tensor, thresholds: Tensor, levels: Tensor, axis: int, layer: str) -> Tensor:
    """x float32 [...] -> levels[codes] float32 [...]; see docs/ops/LUTQuantize_v1.md."""
    channel = axis if thresholds.dim() == 2 else None
    codes = codes_of(to_rows(x, channel), torch.atleast_2d(thresholds))
    return from_rows(torch.atleast_2d(levels).gather(1, codes), x.shape, channel).contiguous()


@lut_quantize.register_fake
def _(x, thresholds, levels, axis, layer):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("lutc::lut_palette", mutates_args=())
def lut_palette(codes: Tensor, levels: Tensor, layer: str) -> Tensor:
    """Codes uint8 [M, ...], levels [L] or [M, L] -> weight float32 [M, ...]; see docs/ops/LUTPalette_v1.md."""
    rows = to_rows(codes, 0).long()
    return torch.atleast_2d(levels).expand(len(rows), -1).gather(1, rows).reshape(codes.shape)


@lut_palette.register_fake
def _(codes, levels, layer):
    return levels.new_empty(codes.shape)
