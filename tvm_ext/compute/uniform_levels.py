"""Activations as evenly spaced integers: how a range is divided, and the thresholds at which float32 passes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SHRINK = np.linspace(1, 0.2, 25)
"""Shares of the range that a search for the least error tries."""
_SEARCHED = 1 << 16
"""Values that the search looks at."""


@dataclass(frozen=True)
class UniformLevels:
    """``clip(round_half_even(x * inv_scale), low, high)``, the product in float32; low <= 0 <= high, so 0 is exact."""

    inv_scale: float
    low: int
    high: int

    @property
    def scale(self) -> float:
        """What an integer stands for."""
        return 1 / self.inv_scale

    def integers(self, x: np.ndarray) -> np.ndarray:
        """int32 of x float32, by the definition."""
        with np.errstate(over="ignore"):
            return np.clip(np.rint(x * np.float32(self.inv_scale)), self.low, self.high).astype(np.int32)

    def values(self) -> np.ndarray:
        """int64 [L]: the integers."""
        return np.arange(self.low, self.high + 1)

    def thresholds(self) -> np.ndarray:
        """float32 [L - 1]: the least x that gets each integer but the lowest."""
        wanted, inv_scale = self.values()[1:], np.float32(self.inv_scale)
        x = ((wanted - 0.5) / float(inv_scale)).astype(np.float32)
        for _ in range(4):
            x = np.nextafter(x, np.float32(-np.inf))
        while (short := np.rint(x * inv_scale) < wanted).any():
            x = np.where(short, np.nextafter(x, np.float32(np.inf)), x)
        return x

    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds and values as `R.lut.levels` takes them."""
        dtypes = ("uint8", 0, 255), ("int8", -128, 127), ("int16", -32768, 32767)
        dtype = next(name for name, least, most in dtypes if least <= self.low and self.high <= most)
        return self.thresholds(), self.values().astype(dtype)


def fit_uniform(low: float, high: float, samples: np.ndarray, count: int) -> UniformLevels:
    """`count` levels for values in low..high, and 0, or in less of it where that halves the squared error of `samples`.

    Few large values may not cost all others their resolution; but they are not cut off for a little more of it.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high - low < 1e-30:
        return UniformLevels(1.0, 0, count - 1)
    flat = samples.reshape(-1)
    flat = flat[:: max(1, len(flat) // _SEARCHED)].astype(np.float32)

    def error(levels: UniformLevels) -> float:
        return float(np.square(levels.integers(flat) * levels.scale - flat, dtype=np.float64).sum())

    whole = _spread(low, high, count)
    best = min([whole, *(_spread(low, high * share, count) for share in _SHRINK if high)], key=error)
    top = best.high * best.scale
    best = min([best, *(_spread(low * share, top, count) for share in _SHRINK if low)], key=error)
    return best if 2 * error(best) <= error(whole) else whole


def _spread(low: float, high: float, count: int) -> UniformLevels:
    inv_scale = np.float32((count - 1) / (high - low))
    first = max(int(np.rint(low * inv_scale)), 1 - count)
    return UniformLevels(float(inv_scale), first, first + count - 1)


def quantize_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 [M, ...], scale float64 [M]): every output's largest weight becomes 127, all are rounded half to even."""
    flat = np.abs(weight.reshape(len(weight), -1)).max(1, initial=0).astype(np.float64)
    scale = np.where(flat > 0, flat / 127, 1.0)
    along = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / along), -127, 127).astype(np.int8), scale


def integer_layer(weight: np.ndarray, levels: UniformLevels, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(int8 weight, scale float64 [M], bias float64 [M]) of a layer ``scale * sum + bias``; `mean` is of its inputs."""
    integers, weight_scale = quantize_weight(weight)
    axes = tuple(range(1, weight.ndim))
    lost = weight.astype(np.float64).sum(axes) - weight_scale * integers.astype(np.int64).sum(axes)
    return integers, weight_scale * levels.scale, mean * lost
