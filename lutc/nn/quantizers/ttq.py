"""TTQ: ternary weights with a learned value for either sign (Zhu et al., Trained Ternary Quantization, ICLR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer

_THRESHOLD = 0.05  # of the largest magnitude


class TernaryTTQ(ScalarQuantizer):
    """-negative, 0 or positive: weights beyond 0.05 max|w| on either side. Always 2 bits, weights only.

    Parameters positive and negative float32 [G]. Their gradients are the sums over the weights of that value; a
    weight's own is scaled by the value it has, by 1 at zero.
    """

    method = "ttq"

    def __init__(self, bits: int = 2, *, signed: bool = True, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if bits != 2 or not signed or not self.is_weight:
            raise ValueError("ttq is for weights, with 2 bits; choose another input_method")
        self.positive = nn.Parameter(torch.ones(self.groups))
        self.negative = nn.Parameter(torch.ones(self.groups))

    def initialize(self, rows: Tensor) -> None:
        """The mean magnitude of the weights on each side."""
        threshold = self._threshold(rows)
        for parameter, side in ((self.positive, rows), (self.negative, -rows)):
            beyond = side > threshold
            mean = (side * beyond).sum(1) / beyond.sum(1).clamp(min=1)
            parameter.copy_(mean.clamp_min(EPSILON))

    def fake(self, rows: Tensor) -> Tensor:
        return _Ternary.apply(rows, self.positive[:, None], self.negative[:, None], self._threshold(rows))

    def hard(self, rows: Tensor) -> Tensor:
        return _ternary(rows, self.positive[:, None], self.negative[:, None], self._threshold(rows))

    @staticmethod
    @torch.no_grad()
    def _threshold(rows: Tensor) -> Tensor:
        return _THRESHOLD * rows.abs().amax(1, keepdim=True)


def _ternary(rows: Tensor, positive: Tensor, negative: Tensor, threshold: Tensor) -> Tensor:
    y = torch.where(rows > threshold, positive, torch.zeros_like(rows))
    return torch.where(rows < -threshold, -negative, y)


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, positive: Tensor, negative: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(rows, positive, negative, threshold)
        return _ternary(rows, positive, negative, threshold)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, positive, negative, threshold = ctx.saved_tensors
        grad, above, below = grads[0], rows > threshold, rows < -threshold
        scale = torch.where(above, positive, torch.where(below, negative, torch.ones_like(rows)))
        return grad * scale, (grad * above).sum(1, keepdim=True), -(grad * below).sum(1, keepdim=True), None
