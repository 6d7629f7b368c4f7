"""Inputs as a search reads them: columns, of an integer search on its grid; and the way back."""

from __future__ import annotations

import ctypes

from torch import Tensor

from lutc.nn import kernels
from lutc.nn.columns import Columns, Workspace


def input_bounds(input_signed: bool) -> tuple[int, int]:
    """(lowest, highest) integer of an input."""
    return (-128, 127) if input_signed else (0, 255)


def round_to_grid_(scaled: Tensor, input_signed: bool, step: int = 1) -> Tensor:
    """In place: to whole numbers, half to even, then to multiples of the step, half up; clipped."""
    low, high = input_bounds(input_signed)
    scaled.round_().clamp_(low, high)
    if step == 1:
        return scaled
    return scaled.add_(step // 2).clamp_(max=high).div_(step).floor_().mul_(step)


class InputGrid:
    """Scale and limits of the integers, multiples of `step`; inv_scale [C], or None with encode_dtype="float32"."""

    def __init__(self, inv_scale: Tensor | None, input_signed: bool, step: int = 1) -> None:
        self._inv_scale, self._signed, self._step = inv_scale, input_signed, step
        self.low, self.high = input_bounds(input_signed)

    def gather(self, x: Tensor, columns: Columns, out: Tensor) -> None:
        """Write columns [B, C, V, L] of x: whole numbers of an integer search."""
        factor = self._per_input(x, columns)
        if factor is not None:
            columns.gather(round_to_grid_(x * factor, self._signed, self._step), out)
            return
        columns.gather(x, out)
        if self._inv_scale is not None:
            round_to_grid_(out.mul_(self._inv_scale[:, None, None]), self._signed, self._step)

    def scatter(self, gradient: Tensor, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """Gradient of the columns, in units of x -> gradient of x: none where an input was clipped."""
        if self._inv_scale is None:
            return columns.scatter(gradient, x)
        factor = self._per_input(x, columns)
        if factor is not None:
            return columns.scatter(gradient, x).masked_fill_(self._clipped(x * factor), 0)
        inputs = work.get("inputs", gradient.shape, x)
        columns.gather(x, inputs)
        clipped = self._clipped(inputs.mul_(self._inv_scale[:, None, None]))
        return columns.scatter(gradient.masked_fill_(clipped, 0), x)

    def planes(self, x: Tensor, columns: Columns, work: Workspace) -> kernels.Planes:
        """As `gather`, for the kernels, which find the columns of a convolution in planes of x."""
        batch, codebooks, length, positions = columns.shape(x)
        windows = columns.windows(x)
        if windows is None:
            data = work.get("columns", (batch, codebooks, length, positions), x)
            self.gather(x, columns, data)
            layout = kernels.layout(length * positions, positions, 0, 1, *range(0, length * positions, positions))
        else:
            data = work.get("planes", (batch, codebooks, windows.channels, windows.height, windows.width), x)
            kernels.to_planes(x, self._for_kernels(), windows, data)
            layout = windows.layout
        return kernels.Planes(data, layout, length, positions, windows)

    def from_planes(
        self, gradient: Tensor, planes: kernels.Planes, x: Tensor, columns: Columns, work: Workspace
    ) -> Tensor:
        """As `scatter`, of what the kernels added up in the shape of `planes`, which are those of x."""
        if planes.windows is None:
            return self.scatter(gradient, x, columns, work)
        return kernels.from_planes(gradient, x, self._for_kernels(), planes.windows)

    def _for_kernels(self) -> kernels.Grid:
        inv_scale = None if self._inv_scale is None else self._inv_scale.contiguous()
        return inv_scale, ctypes.c_float(self.low), ctypes.c_float(self.high), ctypes.c_float(self._step)

    def _per_input(self, x: Tensor, columns: Columns) -> Tensor | None:
        return None if self._inv_scale is None else columns.per_input(self._inv_scale, x)

    def _clipped(self, scaled: Tensor) -> Tensor:
        rounded = scaled.round_()
        return (rounded < self.low) | (rounded > self.high)
