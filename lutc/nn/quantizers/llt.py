"""LLT: a learnable lookup table from fine cells to uniform levels (Wang et al., Learnable Lookup Table, CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.nn.quantizers.base import (
    EPSILON,
    ScalarQuantizer,
    deviation,
    scaled_gradient,
    sign,
    straight_through_sum,
    sums_by_index,
    table_read,
)

_LEAST_RISE = 1e-20
_FACTORS = [0.1 * i for i in range(5, 61)]  # of the standard deviation, tried for the scale


class LLT(ScalarQuantizer):
    """The range -s..s is cut into cells; each of the R rows of a table says which of its K cells the output rises in.

    Levels are uniform, k / R * s; the thresholds are learned. Unsigned: R = 2^b - 1 rows; signed: R = 2^(b-1) - 1 rows,
    mirrored at zero; one signed bit: one row over the whole range, levels -s and s.

    Parameters log_scale float32 [G] (s is its exponential) and table float32 [G, R, K], the logits of a softmax over K
    whose temperature falls from `temperatures[0]` to `temperatures[1]` over the part `hold` of the training; deployed,
    each row rises in the cell with its largest logit.

    Parameters
    ----------
    init : where s starts: "3std" (three standard deviations, the paper's), or "nmse", the least squared error of
        uniform levels, which few bits and short trainings need: 1.2 deviations of normal weights at 2 bits.
    """

    method = "llt"

    def __init__(
        self,
        bits: int,
        *,
        signed: bool,
        granularity: int = 9,
        temperatures: tuple[float, float] = (1.0, 1e-3),
        hold: float = 0.25,
        init: str = "3std",
        **place,
    ) -> None:
        super().__init__(bits, signed=signed, **place)
        if init not in ("3std", "nmse"):
            raise ValueError(f"init must be 3std or nmse, not {init!r}")
        self.init = init
        self.binary = signed and bits == 1
        self.rows = 1 if bits == 1 else 2 ** (bits - signed) - 1
        self.granularity, self.temperatures, self.hold = granularity, temperatures, hold
        self.temperature = temperatures[0]
        self.log_scale = nn.Parameter(torch.zeros(self.groups))
        self.table = nn.Parameter(torch.zeros(self.groups, self.rows, granularity))

    @property
    def cells(self) -> int:
        """n: cells between 0 and s, or between -s and s for one signed bit."""
        return self.rows * self.granularity

    def initialize(self, rows: Tensor) -> None:
        scale = 3 * deviation(rows) if self.init == "3std" else self._least_error(rows)
        self.log_scale.copy_(scale.clamp_min(EPSILON).log())

    def _least_error(self, rows: Tensor) -> Tensor:
        """The s [G] with the least squared error of levels evenly between -s and s or 0 and s, nearest taken."""
        deviations = deviation(rows)
        best, least = 3 * deviations, torch.full_like(deviations, torch.inf)
        for factor in _FACTORS:
            scale = (factor * deviations).clamp_min(EPSILON)
            inside = (rows / scale[:, None]).clamp(-1 if self.signed else 0, 1)
            levels = sign(rows) if self.binary else (inside * self.rows).round() / self.rows
            error = (levels * scale[:, None] - rows).square().sum(1)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return best

    def set_progress(self, progress: float) -> None:
        first, last = self.temperatures
        self.temperature = max(first * (last / first) ** (progress / self.hold), last)

    def fake(self, rows: Tensor) -> Tensor:
        scale = self.log_scale.exp()[:, None]
        rises = (self.table / self.temperature).softmax(2)
        # exactly zero, not tiny: subnormal outputs make a convolution several times slower
        lookup = self._lookup(rises.masked_fill(rises < _LEAST_RISE, 0))
        inside = (rows / scale).clamp(-1, 1)
        index = self._index(inside)
        with torch.no_grad():
            counts = sums_by_index(index, None, lookup.shape[1])
            used = self.cells + 1 if self.binary or not self.signed else 2 * self.cells + 1
            factor = rows.shape[1] / used / (counts.sqrt() + 1e-5)
        y = table_read(scaled_gradient(lookup, factor), index)
        return straight_through_sum(y, inside) * scale

    def hard(self, rows: Tensor) -> Tensor:
        scale = self.log_scale.exp()[:, None]
        chosen = F.one_hot(self.table.argmax(2), self.granularity).to(scale.dtype)
        return self._lookup(chosen).gather(1, self._index((rows / scale).clamp(-1, 1))) * scale

    def _lookup(self, rises: Tensor) -> Tensor:
        """How far the output rises in each cell, [G, R, K] -> the value of each index [G, cells]."""
        height = rises.flatten(1).cumsum(1) / self.rows
        zero = height.new_zeros(len(height), 1)
        if self.binary:
            return torch.cat([zero - 1, 2 * height - 1], 1)
        if self.signed:
            return torch.cat([-height.flip(1), zero, height], 1)
        return torch.cat([zero.expand(-1, self.cells + 1), height], 1)

    def _index(self, inside: Tensor) -> Tensor:
        if self.binary:
            return ((inside + 1) * (self.cells / 2)).round().long().clamp(0, self.cells)
        # clamped for NaN
        return ((inside * self.cells).round().long() + self.cells).clamp(0, 2 * self.cells)
