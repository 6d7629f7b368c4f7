"""MinMax: a uniform grid up to the largest magnitude: the usual 8-bit choice for first and last layers."""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, rounded


class MinMax(ScalarQuantizer):
    """y = round(x * n / m) * m / n with n = 2^(b-1) - 1, or 2^b - 1 for values that are never negative.

    For weights m is the largest magnitude they have now. For activations it is the largest seen: buffer largest
    float32 [G], which grows in training and while calibrating and stays in eval, where larger values are clipped.
    """

    method = "minmax"
    largest: Tensor

    def __init__(self, bits: int, *, signed: bool, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if signed and bits == 1:
            raise ValueError("minmax has no one-bit form for signed values")
        self.steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.register_buffer("largest", torch.zeros(self.groups))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        self.initialized.fill_(False)
        super().observe(x)

    def initialize(self, rows: Tensor) -> None:
        self.largest.copy_(torch.maximum(self.largest, rows.abs().amax(1)).clamp_min(EPSILON))

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.initialize(rows)
        return self._quantized(rows)

    def hard(self, rows: Tensor) -> Tensor:
        return self._quantized(rows)

    def _quantized(self, rows: Tensor) -> Tensor:
        largest = self._now(rows)[:, None]
        inside = (rows / largest).clamp(-1 if self.signed else 0, 1)
        return rounded(inside * self.steps) / self.steps * largest

    def _now(self, rows: Tensor) -> Tensor:
        return rows.detach().abs().amax(1).clamp_min(EPSILON) if self.is_weight else self.largest
