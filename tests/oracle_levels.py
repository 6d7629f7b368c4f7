"""The exact meaning of scalar quantizers in numpy, written from docs/ops (LUTQuantize and LUTPalette) alone."""

from __future__ import annotations

import numpy as np


def codes(x: np.ndarray, thresholds: np.ndarray, axis: int = 1) -> np.ndarray:
    """x float32 [...], thresholds float32 [T] or [C, T] -> codes uint8 [...]; NaN gets 0."""
    assert x.dtype == thresholds.dtype == np.float32
    counts = np.zeros(x.shape, np.int64)
    for k in range(thresholds.shape[-1]):
        counts += x >= _along(thresholds[..., k], x.ndim, axis)
    assert counts.size == 0 or counts.max() <= 255
    return counts.astype(np.uint8)


def quantize(x: np.ndarray, thresholds: np.ndarray, levels: np.ndarray, axis: int = 1) -> np.ndarray:
    """LUTQuantize: y float32 [...] of x float32 [...]."""
    assert levels.dtype == np.float32 and levels.ndim == thresholds.ndim
    assert levels.shape[-1] == thresholds.shape[-1] + 1
    found = codes(x, thresholds, axis)
    return levels[found] if levels.ndim == 1 else levels[_along(np.arange(len(levels)), x.ndim, axis), found]


def palette(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """LUTPalette: weight float32 [M, ...] of codes uint8 [M, ...]."""
    assert codes.dtype == np.uint8 and levels.dtype == np.float32
    return levels[codes] if levels.ndim == 1 else levels[_along(np.arange(len(levels)), codes.ndim, 0), codes]


def _along(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A scalar as it is, [C] in the shape that broadcasts along one axis of a tensor of this rank."""
    shape = [1] * rank
    if values.ndim:
        shape[axis] = len(values)
        return values.reshape(shape)
    return values
