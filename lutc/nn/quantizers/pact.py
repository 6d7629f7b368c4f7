"""PACT: activations clipped at a learned value (Choi et al., Parameterized Clipping Activation, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, straight_through


class PACT(ScalarQuantizer):
    """y = round(clip(x, 0, a) * n / a) * a / n with n = 2^b - 1; signed: clip(x, -a, a) and n = 2^(b-1) - 1.

    Parameter clip float32 [G], a in the formula; its gradient is that of the clipping alone. Weights are left to
    another method (DoReFa in the paper).
    """

    method = "pact"

    def __init__(self, bits: int, *, signed: bool, clip: float = 8.0, **place) -> None:
        super().__init__(bits, signed=signed, **place)
        if signed and bits == 1:
            raise ValueError("pact has no one-bit form for signed values")
        self.steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.clip = nn.Parameter(torch.full((self.groups,), clip))

    def initialize(self, rows: Tensor) -> None:
        """The clip keeps its given value."""

    def fake(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.clip.clamp_(min=EPSILON)
        clip = self.clip[:, None]
        inside = torch.where(rows >= clip, clip, rows)
        inside = torch.where(rows <= -clip, -clip, inside) if self.signed else inside.clamp(min=0)
        return straight_through(self.hard(rows), inside)

    def hard(self, rows: Tensor) -> Tensor:
        clip = self.clip.clamp_min(EPSILON)[:, None]
        inside = (rows / clip).clamp(-1 if self.signed else 0, 1)
        return (inside * self.steps).round() / self.steps * clip
