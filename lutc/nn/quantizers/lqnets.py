"""LQ-Nets: levels that are signed sums of a learned basis (Zhang et al., ECCV 2018)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from lutc.nn.quantizers.base import ScalarQuantizer, deviation, nearest, straight_through

_MOMENTUM = 0.9
_RIDGE = 1e-6  # keeps the normal equations solvable where a bit is always the same


class LQNets(ScalarQuantizer):
    """The nearest of all B v: B in {0, 1}^b for unsigned values, in {-1, 1}^b for signed ones; ties to the lower.

    Buffer basis float32 [G, b], v in the formula. It has no gradient: each training forward solves the least squares
    problem of its codes, and the basis moves a tenth of the way there. The input's gradient passes unchanged, but for
    unsigned values above the largest level or below zero.
    """

    method = "lqnets"
    digits: Tensor
    basis: Tensor

    def __init__(self, bits: int, *, signed: bool, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        digits = (-1.0, 1.0) if signed else (0.0, 1.0)
        self.register_buffer("digits", torch.tensor(list(product(digits, repeat=bits))), persistent=False)
        self.register_buffer("basis", torch.ones(self.groups, bits))

    def initialize(self, rows: Tensor) -> None:
        """Levels evenly over four deviations (signed) or over the range of most values."""
        powers = 2.0 ** torch.arange(self.bits - 1, -1, -1, device=rows.device)
        spread = deviation(rows) * 2.5 if self.signed else rows.square().mean(1).sqrt() * 2.5
        self.basis.copy_(spread.clamp_min(1e-6)[:, None] * powers / powers.sum())

    def fake(self, rows: Tensor) -> Tensor:
        y = self.hard(rows.detach())
        passed = rows
        if not self.signed:
            passed = rows.clamp(min=0)
            passed = torch.where(rows > self._sorted()[1][:, -1:], rows.detach(), passed)
        self._fit(rows.detach())
        return straight_through(y, passed)

    def hard(self, rows: Tensor) -> Tensor:
        return nearest(rows, self._sorted()[1])

    def _sorted(self) -> tuple[Tensor, Tensor]:
        """(digits [G, L, b] in the order of their levels, increasing levels [G, L])."""
        levels = (self.digits[None] * self.basis[:, None]).sum(2)
        levels, order = levels.sort(1)
        return self.digits[order], levels

    @torch.no_grad()
    def _fit(self, rows: Tensor) -> None:
        digits, levels = self._sorted()
        middles = (levels[:, 1:] + levels[:, :-1]) / 2
        codes = torch.searchsorted(middles.contiguous(), rows.contiguous())
        counts = torch.zeros_like(levels).scatter_add_(1, codes, torch.ones_like(rows))
        sums = torch.zeros_like(levels).scatter_add_(1, codes, rows)
        normal = torch.einsum("gl,gla,glb->gab", counts, digits, digits)
        normal = normal + _RIDGE * rows.shape[1] * torch.eye(self.bits, device=rows.device)
        right = torch.einsum("gl,gla->ga", sums, digits) + _RIDGE * rows.shape[1] * self.basis
        solved = torch.linalg.solve(normal, right[..., None])[..., 0]
        self.basis.lerp_(solved, 1 - _MOMENTUM)
