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
)

# steps of the uniform quantizer with the least error: times the deviation of a normal variable (weights), or times
# sqrt(2 E x^2) of a half-normal one (activations after a ReLU); by the number of positive levels
_NORMAL = {0: 0.7979, 1: 0.9957, 3: 0.5860, 7: 0.3352, 15: 0.1881, 31: 0.1041, 63: 0.0569, 127: 0.0308}
_HALF_NORMAL = {1: 1.2240, 3: 0.6508, 7: 0.3534, 15: 0.1932, 31: 0.1055, 63: 0.0573, 127: 0.0309, 255: 0.0165}
_CONSTANT = {True: 3.0, False: 8.0}  # clip of weights, of activations
_LEAST_STEP = 1e-4  # of the mean step


class NuLSQ(ScalarQuantizer):
    """The nearest of the levels that sums of positive steps make, outwards from 0, which is always one; ties to 0.

    Parameter steps float32 [G, Qn + Qp]: first the steps below zero, then those above, each from zero outwards. They are
    kept positive: after an update that took one below a ten-thousandth of the mean step, it is put back there.

    Parameters
    ----------
    init : "nmse" (least error, the paper's), "lsq", or "const"; the largest over the batches that are observed.
    grad_scale : "none", or "lsq" for 1 / sqrt(values * levels of the side).
    """

    method = "nulsq"
    adaptive = True

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
    return _half(rows, above) - _half(-rows, below)


def _half(rows: Tensor, steps: Tensor) -> Tensor:
    edges = steps.cumsum(1)
    levels = torch.cat([edges.new_zeros(len(edges), 1), edges], 1)
    return levels.gather(1, torch.searchsorted((edges - steps / 2).contiguous(), rows.contiguous()))


class _Staircase(torch.autograd.Function):
    """The gradients of the paper's supplement, equations 8 to 13, on either side of zero."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, below: Tensor, above: Tensor) -> Tensor:
        ctx.save_for_backward(rows, below, above)
        return staircase(rows, below, above)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, below, above = ctx.saved_tensors
        grad = grads[0]
        inside = (rows >= -below.sum(1, keepdim=True)) & (rows <= above.sum(1, keepdim=True))
        return grad * inside, _step_gradient(-rows, below, -grad), _step_gradient(rows, above, grad)


def _step_gradient(rows: Tensor, steps: Tensor, grad: Tensor) -> Tensor:
    """Of the steps of one side: bucket k has c_{k-1} < x <= c_k, and what lies beyond all of them moves every step."""
    if not steps.shape[1]:
        return torch.zeros_like(steps)
    edges = steps.cumsum(1).contiguous()
    bucket = torch.searchsorted(edges, rows.contiguous())
    beyond = (grad * (bucket == steps.shape[1])).sum(1, keepdim=True)
    inner = (rows >= 0) & (bucket < steps.shape[1])
    bucket = bucket.clamp(max=steps.shape[1] - 1)
    width = steps.gather(1, bucket)
    part = (rows - (edges - steps).gather(1, bucket)) / width
    slope = (part > 0.5).to(part.dtype) - part
    return torch.zeros_like(steps).scatter_add_(1, bucket, grad * slope * inner) + beyond
