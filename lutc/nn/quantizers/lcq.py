"""LCQ: a uniform grid seen through a learned companding curve (Yamamoto, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, deviation, rounded, straight_through


class LCQ(ScalarQuantizer):
    """y = sign(x) * a * g^-1(round(n * g(|x| / a)) / n), |x| / a clipped to 1; g is piecewise linear from 0 to 1.

    Parameters clip float32 [G], a in the formula, and theta float32 [G, K]: the softmax of theta is how much g rises in
    each of K equal intervals. n = 2^b - 1, or 2^(b-1) - 1 for signed values, whose levels are mirrored at 0. Weights
    are standardised before and multiplied by their deviation after (limited weight normalization).
    """

    method = "lcq"

    def __init__(self, bits: int, *, signed: bool, intervals: int = 16, clip: float | None = None, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if signed and bits == 1:
            raise ValueError("lcq has no one-bit form for signed values")
        self.steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.intervals = intervals
        if clip is None:
            clip = 3.0 if self.is_weight else 8.0
        self.clip = nn.Parameter(torch.full((self.groups,), clip))
        self.theta = nn.Parameter(torch.zeros(self.groups, intervals))

    def initialize(self, rows: Tensor) -> None:
        """The clip keeps its given value, and g starts as the identity."""

    def around(self, rows: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.is_weight:
            return quantize(rows)
        spread = deviation(rows).clamp_min(EPSILON)[:, None]
        return quantize((rows - rows.mean(1, keepdim=True)) / spread) * spread

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.clip.clamp_(min=EPSILON)
        return self._quantized(rows)

    def hard(self, rows: Tensor) -> Tensor:
        return self._quantized(rows)

    def _quantized(self, rows: Tensor) -> Tensor:
        clip = self.clip.clamp_min(EPSILON)[:, None]
        rises = self.theta.softmax(1)
        edges = torch.cat([rises.new_zeros(len(rises), 1), rises.cumsum(1)[:, :-1], rises.new_ones(len(rises), 1)], 1)
        magnitude = rows.abs() if self.signed else rows.clamp(min=0)
        unit = rounded(self._compress((magnitude / clip).clamp(max=1), rises, edges) * self.steps) / self.steps
        y = self._expand(unit, rises, edges) * clip
        return torch.where(rows < 0, -y, y) if self.signed else y

    def _compress(self, unit: Tensor, rises: Tensor, edges: Tensor) -> Tensor:
        """g: 0..1 -> 0..1."""
        with torch.no_grad():
            index = (unit * self.intervals).floor().long().clamp(0, self.intervals - 1)
        low, high = edges.gather(1, index), edges.gather(1, index + 1)
        y = (unit - index / self.intervals) * (rises.gather(1, index) * self.intervals) + low
        # rounding must not lift a value over that of the next interval: a quantizer is monotone
        return straight_through(torch.minimum(torch.maximum(y, low), high), y)

    def _expand(self, unit: Tensor, rises: Tensor, edges: Tensor) -> Tensor:
        """The inverse of g."""
        with torch.no_grad():
            index = (torch.searchsorted(edges.contiguous(), unit.contiguous(), right=True) - 1).clamp(
                0, self.intervals - 1
            )
        inner = (unit - edges.gather(1, index)) / (rises.gather(1, index) * self.intervals)
        y = inner + index / self.intervals
        return straight_through(torch.where(unit == 1, 1.0, y.clamp(0, 1)), y)
