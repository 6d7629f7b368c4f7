"""Float levels as one scale times integers: exactly where they are that, else the nearest fit of a given width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_TOLERANCE = 6e-7
"""Relative: levels lie within two units in the last place of scale * integer, as does the one that tells scale."""


@dataclass(frozen=True, eq=False)
class IntegerLevels:
    """`levels` ~ scale * integers, one a level; `exact` up to the rounding of the float32 levels themselves."""

    integers: np.ndarray
    scale: float
    exact: bool


def factor_levels(levels: np.ndarray, largest: int, *, signed: bool = True) -> IntegerLevels | None:
    """The smallest integers that levels float32 [L] are multiples of, or None if some would exceed `largest`.

    Not `signed`: only for levels without a sign change (all >= 0).
    """
    values = np.asarray(levels, np.float64)
    top = float(np.abs(values).max(initial=0))
    if not signed and (values < 0).any():
        return None
    if top == 0:
        return IntegerLevels(np.zeros(len(values), np.int64), 1.0, True)
    if top < 1e-30:
        return None  # subnormal levels have no relative precision
    for divisor in range(1, largest + 1):
        found = values * (divisor / top)
        integers = np.rint(found)
        if (np.abs(found - integers) <= _TOLERANCE * np.abs(integers)).all():
            scale = float((integers @ values) / (integers @ integers))
            return IntegerLevels(integers.astype(np.int64), scale, True)
    return None


def fit_levels(levels: np.ndarray, weights: np.ndarray, largest: int) -> IntegerLevels:
    """Integers up to `largest` that keep the weighted squared error of levels float32 [L] least (searched)."""
    values, weights = np.asarray(levels, np.float64), np.asarray(weights, np.float64)
    top = float(np.abs(values).max(initial=0))
    if top == 0:
        return IntegerLevels(np.zeros(len(values), np.int64), 1.0, True)
    # the largest level keeps its place within a third of the range
    divisors = np.linspace(2 * largest / 3, largest + 0.499, 400)[:, None]
    integers = np.rint(values * divisors / top)
    energy = (weights * integers**2).sum(1)
    scales = np.divide((weights * integers * values).sum(1), energy, out=np.full(len(energy), top / largest),
                       where=energy > 0)  # fmt: skip
    errors = (weights * (integers * scales[:, None] - values) ** 2).sum(1)
    best = int(errors.argmin())
    return IntegerLevels(integers[best].astype(np.int64), float(scales[best]), False)


def code_shares(thresholds: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """How often each code occurs, if nothing is known but the quantizer: inputs are taken as normal.

    The outermost threshold is taken to lie 2.5 standard deviations out, as quantizers of least error place it; where
    no level is negative, inputs are behind a relu.
    """
    finite = thresholds[np.isfinite(thresholds)]
    reach = float(np.abs(finite).max(initial=0)) or 1.0
    below = np.array([0.5 * (1 + math.erf(2.5 * float(t) / reach / math.sqrt(2))) for t in thresholds])
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return np.maximum(shares, 1e-6)
