"""APoT: levels that are sums of powers of two (Li et al., Additive Powers-of-Two Quantization, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, deviation, nearest, sign, straight_through

_LOOKUP_BITS = 2  # bits a term: zero and three powers of two


class APoT(ScalarQuantizer):
    """The nearest of a * levels, ties to the lower; weights are standardised first (mean 0, deviation 1).

    Unsigned levels are the additive powers of two of b bits, signed ones those of b - 1 bits with either sign.
    Parameter clip float32 [G], a in the formula. Gradients: the input's passes inside the clip (a weight's everywhere),
    the clip's is y / a - x / a inside and the sign outside.
    """

    method = "apot"

    def __init__(self, bits: int, *, signed: bool, clip: float | None = None, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if clip is None:
            clip = 3.0 if self.is_weight else 8.0
        self.clip = nn.Parameter(torch.full((self.groups,), clip))
        self.register_buffer("unit_levels", torch.tensor(unit_levels(bits, signed)), persistent=False)

    def initialize(self, rows: Tensor) -> None:
        """The clip keeps its given value."""

    def around(self, rows: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.is_weight:
            return quantize(rows)
        spread = deviation(rows).clamp_min(EPSILON)[:, None]
        return quantize((rows - rows.mean(1, keepdim=True)) / spread)

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.clip.clamp_(min=EPSILON)
        y = self.hard(rows)
        clip = self.clip[:, None]
        unit = (rows / clip).detach()
        outside = (unit.abs() > 1) if self.signed else (unit > 1) | (unit < 0)
        # the clip's own gradient, as the slope of a term whose value is 0
        slope = torch.where(outside, unit.sign() if self.signed else (unit > 1).to(unit), y / clip.detach() - unit)
        passed = rows if self.is_weight else torch.where(outside, rows.detach(), rows)
        return straight_through(y, passed + slope.detach() * (clip - clip.detach()))

    def hard(self, rows: Tensor) -> Tensor:
        clip = self.clip.detach().clamp_min(EPSILON)[:, None]
        levels = self.unit_levels.expand(self.groups, -1)
        if self.signed and self.bits == 1:
            return sign(rows) * clip
        return nearest(rows / clip, levels) * clip


@cache
def unit_levels(bits: int, signed: bool) -> list[float]:
    """Increasing levels in 0..1, or -1..1."""
    if not signed:
        return additive_powers(bits)
    if bits == 1:
        return [-1.0, 1.0]
    positive = additive_powers(bits - 1)
    return [-level for level in reversed(positive[1:])] + positive


@cache
def additive_powers(bits: int) -> list[float]:
    """The 2^bits sums of one entry of each term, divided by the largest: bits // 2 terms of zero and three powers of
    two, and for an odd number of bits one of zero and one power.

    Exponents are dealt out in turn, the odd term's before the last round.
    """
    count, odd = divmod(bits, _LOOKUP_BITS)
    terms = [[0.0, 2.0 ** -(index + 1), 2.0 ** -(count + index + 1)] for index in range(count)]
    used = 2 * count
    if odd:
        used += 1
    for index, term in enumerate(terms):
        term.append(2.0 ** -(used + index + 1))
    if odd:
        terms.append([0.0, 2.0 ** -(2 * count + 1)])
    sums = sorted({sum(choice) for choice in product(*terms)})
    return [value / sums[-1] for value in sums]
