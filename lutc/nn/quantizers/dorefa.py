"""DoReFa-Net: fixed grids for activations in 0..1 and for tanh-squashed weights (Zhou et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, rounded, sign, straight_through


class DoReFa(ScalarQuantizer):
    """Activations: round(n * clip(x, 0, 1)) / n with n = 2^b - 1; signed ones use clip(x, -1, 1) and n = 2^(b-1) - 1.

    Weights: 2 * round(n * (tanh w / (2 max |tanh w|) + 1/2)) / n - 1, which has no level 0; one bit is mean|w| * sign
    w. No parameters.
    """

    method = "dorefa"

    def __init__(self, bits: int, *, signed: bool, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if signed and bits == 1 and not self.is_weight:
            raise ValueError("dorefa has no one-bit form for signed activations")
        self.steps = 2 ** (bits - 1) - 1 if signed and not self.is_weight else 2**bits - 1

    def initialize(self, rows: Tensor) -> None:
        """Nothing to learn."""

    def around(self, rows: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.is_weight or self.bits == 1:
            return quantize(rows)
        squashed = torch.tanh(rows)
        half = squashed.abs().amax(1, keepdim=True).clamp_min(EPSILON) * 2
        return 2 * quantize(squashed / half + 0.5) - 1

    def fake(self, rows: Tensor) -> Tensor:
        if self.is_weight and self.bits == 1:
            return straight_through(sign(rows) * rows.abs().mean(1, keepdim=True), rows)
        low = -1 if self.signed and not self.is_weight else 0
        return rounded(rows.clamp(low, 1) * self.steps) / self.steps

    def hard(self, rows: Tensor) -> Tensor:
        return self.fake(rows)
