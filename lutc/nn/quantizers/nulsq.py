"""nuLSQ: a staircase whose every step is learned (Yamamoto et al., Nonuniform Learned Step Size Quantization)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import (
    EPSILON,
    ScalarQuantizer,
    deviation,
    integer_range,
    scaled_gradient,
    sign,
    straight_through,
    sums_by_index,
)

# steps of the uniform quantizer with the least error: times the deviation of a normal variable (weights), or times
# sqrt(2 E x^2) of a half-normal one (activations after a ReLU); by the number of positive levels
_NORMAL = {0: 0.7979, 1: 0.9957, 3: 0.5860, 7: 0.3352, 15: 0.1881, 31: 0.1041, 63: 0.0569, 127: 0.0308}
_HALF_NORMAL = {1: 1.2240, 3: 0.6508, 7: 0.3534, 15: 0.1932, 31: 0.1055, 63: 0.0573, 127: 0.0309, 255: 0.0165}
_CONSTANT = {True: 3.0, False: 8.0}  # clip of weights, of activations
_LEAST_STEP = 1e-4  # of the mean step


class NuLSQ(ScalarQuantizer):
    """The nearest of the levels that sums of positive steps make, outwards from 0, which is always one; ties to 0.

    Parameter steps float32 [G, Qn + Qp]: first the steps below zero, then those above, each from zero outwards. They
    are kept positive: after an update that took one below a ten-thousandth of the mean step, it is put back there.

    Parameters
    ----------
    init : "nmse" (least error, the paper's), "lsq", or "const"; the largest over the batches that are observed.
    grad_scale : "none", or "lsq" for 1 / sqrt(values * levels of the side).
    """

    method = "nulsq"

    def __init__(self, bits: int, *, signed: bool, init: str = "nmse", grad_scale: str = "none", **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if init not in ("nmse", "lsq", "const"):
            raise ValueError(f"init must be nmse, lsq or const, not {init!r}")
        if grad_scale not in ("lsq", "none"):
            raise ValueError(f"grad_scale must be lsq or none, not {grad_scale!r}")
        self.init, self.grad_scale = init, grad_scale
        low, self.positive = integer_range(bits, signed)
        self.negative = -low
        self.steps = nn.Parameter(torch.ones(self.groups, self.negative + self.positive))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        before = self.steps.detach().clone() if bool(self.initialized) else None
        self.initialized.fill_(False)
        super().observe(x)
        if before is not None:
            self.steps.copy_(torch.maximum(self.steps, before))

    def initialize(self, rows: Tensor) -> None:
        step = self._first_step(rows).clamp_min(EPSILON)
        self.steps.copy_(step[:, None].expand_as(self.steps))

    def _first_step(self, rows: Tensor) -> Tensor:
        if self.init == "const":
            return rows.new_full((self.groups,), _CONSTANT[self.is_weight] / max(self.positive, 1))
        if self.init == "lsq":
            return 2 * rows.abs().mean(1) / math.sqrt(max(self.positive, 1))
        if self.signed:
            return deviation(rows) * _NORMAL[self.positive]
        return (2 * rows.square().mean(1)).sqrt() * _HALF_NORMAL[self.positive]

    @torch.no_grad()
    def dead_steps(self) -> int:
        """How many steps sit on their lower bound: levels that have all but vanished."""
        return int((self.steps <= 1.01 * self._least()).sum())

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.steps.copy_(torch.maximum(self.steps, self._least()))
        if self.signed and self.bits == 1:
            inside = (rows / self.steps).clamp(-1, 1)
            return straight_through(sign(inside), inside) * self.steps
        below, above = self.steps[:, : self.negative], self.steps[:, self.negative :]
        if self.grad_scale == "lsq":
            below = scaled_gradient(below, 1 / math.sqrt(rows.shape[1] * max(self.negative, 1)))
            above = scaled_gradient(above, 1 / math.sqrt(rows.shape[1] * max(self.positive, 1)))
        return _Staircase.apply(rows, below, above)

    def hard(self, rows: Tensor) -> Tensor:
        steps = self.steps.clamp_min(0)
        if self.signed and self.bits == 1:
            return sign(rows) * steps
        return staircase(rows, steps[:, : self.negative], steps[:, self.negative :])

    def _least(self) -> Tensor:
        return (_LEAST_STEP * self.steps.clamp_min(0).mean(1, keepdim=True)).clamp_min(EPSILON)


def staircase(rows: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Nearest level, ties to zero: rows [G, N], steps [G, Qn] and [G, Qp] from zero outwards."""
    y = _half(rows, above)
    return y - _half(-rows, below) if below.shape[1] else y


def _half(rows: Tensor, steps: Tensor) -> Tensor:
    edges = steps.cumsum(1)
    levels = torch.cat([edges.new_zeros(len(edges), 1), edges], 1)
    return levels.gather(1, torch.searchsorted((edges - steps / 2).contiguous(), rows.contiguous()))


class _Staircase(torch.autograd.Function):
    """The gradients of the paper's supplement, equations 8 to 13, on either side of zero.

    A step's gradient is a sum of g * (up - (|x| - c) / s) over its bucket, c < |x| <= c + s, where up is 1 in the upper
    half; beyond the last bucket every step gets g. The halves are found once, and the sums of g and g * x over each
    give all steps' gradients.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, below: Tensor, above: Tensor) -> Tensor:
        middles, edges = _half_edges(above)
        left, far = _half_edges(below)
        # of the thresholds below zero the lower neighbour is counted: a value on one goes towards zero
        left = torch.nextafter(-left, torch.full_like(left, -torch.inf))
        falling = torch.stack([torch.nextafter(-far, torch.full_like(far, -torch.inf)), left], 2).flip(1).flatten(1)
        rising = torch.stack([middles, edges], 2).flatten(1)
        thresholds = torch.cat([falling, rising.new_zeros(len(rising), 1), rising], 1).contiguous()
        part = torch.searchsorted(thresholds, rows.contiguous())
        levels = torch.cat([-_twice(far).flip(1), _twice(edges)], 1)
        ctx.save_for_backward(rows, below, above, part)
        return levels.gather(1, part)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, below, above, part = ctx.saved_tensors
        grad, count = grads[0], 2 * (below.shape[1] + above.shape[1]) + 2
        inside = (rows >= -below.sum(1, keepdim=True)) & (rows <= above.sum(1, keepdim=True))
        sums, moments = (sums_by_index(part, values, count) for values in (grad, grad * rows))
        middle = 2 * below.shape[1] + 1
        down = _step_gradient(-sums[:, :middle].flip(1), moments[:, :middle].flip(1), below)
        return grad * inside, down, _step_gradient(sums[:, middle:], moments[:, middle:], above)


def _half_edges(steps: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and upper edge of each bucket of one side, outwards from zero."""
    edges = steps.cumsum(1)
    return edges - steps / 2, edges


def _twice(edges: Tensor) -> Tensor:
    """The level of each half bucket: 0, c_1, c_1, c_2, c_2, ... and the last beyond."""
    return torch.cat([edges.new_zeros(len(edges), 1), edges.repeat_interleave(2, 1)], 1)


def _step_gradient(sums: Tensor, moments: Tensor, steps: Tensor) -> Tensor:
    """Of one side, from the sums of g and of g * |x| over half buckets [G, 2 Q + 1], the last beyond all of them."""
    if not steps.shape[1]:
        return torch.zeros_like(steps)
    exact = steps.double()
    start = (exact.cumsum(1) - exact) / exact
    lower, upper = sums[:, :-1:2], sums[:, 1::2]
    size = moments[:, :-1:2] + moments[:, 1::2]
    inner = upper + start * (lower + upper) - size / exact
    return (inner + sums[:, -1:]).to(steps.dtype)
