"""Inputs as a search reads them: columns, of an integer search on its grid; and the way back."""

from __future__ import annotations

from torch import Tensor

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

    def _per_input(self, x: Tensor, columns: Columns) -> Tensor | None:
        return None if self._inv_scale is None else columns.per_input(self._inv_scale, x)

    def _clipped(self, scaled: Tensor) -> Tensor:
        rounded = scaled.round_()
        return (rounded < self.low) | (rounded > self.high)
