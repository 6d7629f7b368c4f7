"""Inputs at which a quantizer and its thresholds and levels are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lutc.nn.levels import Levels, float_keys, key_floats

_ULPS = 64


def probes(thresholds: Tensor, span: float, limit: float) -> Tensor:
    """About 215,000 values: random, regular, all within 64 ulp of a threshold, zeros, subnormals, extremes."""
    generator = torch.Generator().manual_seed(0)
    finite = thresholds[thresholds.isfinite()].flatten()
    near = float_keys(finite)[:, None] + torch.arange(-_ULPS, _ULPS + 1)
    regular = torch.arange(-4096, 4097) / 512
    edges = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1.2e-38, limit, -limit])
    x = torch.cat(
        [
            torch.randn(100_000, generator=generator) * span / 3,
            (torch.rand(107_000, generator=generator) * 2 - 1) * span,
            key_floats(near.flatten()).clamp(-limit, limit),
            regular,
            regular * span / 8,
            edges,
        ]
    )
    return x.clamp(-limit, limit)


def mismatches(quantize: Callable[[Tensor], Tensor], levels: Levels, limit: float = 3.4e38) -> tuple[int, int]:
    """(values the quantizer and the levels disagree on, values compared), per tensor."""
    finite = levels.thresholds[levels.thresholds.isfinite()]
    span = 1.5 * float(finite.abs().max().clamp(max=1e30)) if len(finite) else 1.0
    x = probes(levels.thresholds, span, limit)
    return int((quantize(x) != levels.quantize(x)).sum()), len(x)
