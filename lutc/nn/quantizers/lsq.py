"""LSQ: a uniform grid with a learned step (Esser et al., Learned Step Size Quantization, ICLR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import (
    EPSILON,
    ScalarQuantizer,
    integer_range,
    rounded,
    scaled_gradient,
    sign,
    straight_through,
)


class LSQ(ScalarQuantizer):
    """y = s * clip(round(x / s), low, high); one signed bit is y = s * sign(x).

    Parameter step float32 [G], kept positive. grad_scale multiplies the step's gradient: "lsq" by
    1 / sqrt(values * highest level) as in the paper, "none" by 1.
    """

    method = "lsq"

    def __init__(self, bits: int, *, signed: bool, grad_scale: str = "lsq", **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if grad_scale not in ("lsq", "none"):
            raise ValueError(f"grad_scale must be lsq or none, not {grad_scale!r}")
        self.grad_scale = grad_scale
        self.low, self.high = integer_range(bits, signed)
        self.step = nn.Parameter(torch.ones(self.groups))

    def initialize(self, rows: Tensor) -> None:
        self.step.copy_((2 * rows.abs().mean(1) / math.sqrt(max(self.high, 1))).clamp_min(EPSILON))

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.step.clamp_(min=EPSILON)
        step = self.step[:, None]
        if self.grad_scale == "lsq":
            step = scaled_gradient(step, 1 / math.sqrt(rows.shape[1] * max(self.high, 1)))
        if self.signed and self.bits == 1:
            inside = (rows / step).clamp(-1, 1)
            return straight_through(sign(inside), inside) * step
        return rounded((rows / step).clamp(self.low, self.high)) * step

    def hard(self, rows: Tensor) -> Tensor:
        step = self.step.clamp_min(EPSILON)[:, None]
        if self.signed and self.bits == 1:
            return sign(rows) * step
        return (rows / step).clamp(self.low, self.high).round() * step
