"""The rows that layers read: a uniform sample in bounded memory, and the range of every column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutc.calibrate.layers import Geometry
from lutc.importers.padding import resolve_pads

_BYTES = 16 << 20  # of the sample of one layer
_LEAST_ROWS, _MOST_ROWS = 2048, 8192


class RowSample:
    """A random sample of the rows a layer reads, every row with the same chance, and the ranges of all of them.

    Of a conv only the patches that enter the sample are cut out of the input. At most `most` rows are kept.
    """

    def __init__(self, geometry: Geometry | None, seed: int, most: int | None = None) -> None:
        self._geometry, self._most = geometry, most or _MOST_ROWS
        self._rng = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self.rows: np.ndarray | None = None
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None

    def add(self, x: np.ndarray) -> None:
        """Offer the rows of an input: [B, channels, H, W] for a conv, [..., features] for a dense layer."""
        taps = 1 if self._geometry is None else int(np.prod(self._geometry.kernel_shape))
        axis = -1 if self._geometry is None else 1
        axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        self._extend_range(np.repeat(x.min(axis=axes), taps), np.repeat(x.max(axis=axes), taps))
        count, cut = (_dense_rows if self._geometry is None else patch_rows)(x, self._geometry)
        self._keep(count, cut, taps * x.shape[axis])

    def _extend_range(self, low: np.ndarray, high: np.ndarray) -> None:
        padded = self._geometry is not None and self._geometry.pads not in ((0, 0, 0, 0), "VALID")
        if padded:  # padding puts zeros into the patches
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def _keep(self, count: int, cut: Callable[[np.ndarray], np.ndarray], width: int) -> None:
        """Every row draws a key and the largest keys stay, over the whole stream."""
        capacity = min(max(_BYTES // (4 * width), _LEAST_ROWS), self._most)
        old = len(self._keys)
        keys = np.concatenate([self._keys, self._rng.random(count)])
        stay = np.argsort(-keys, kind="stable")[:capacity] if len(keys) > capacity else np.arange(len(keys))
        stay.sort()
        kept, new = stay[stay < old], stay[stay >= old] - old
        taken = cut(new)
        self.rows = taken if self.rows is None else np.concatenate([self.rows[kept], taken])
        self._keys = keys[stay]


def _dense_rows(x: np.ndarray, _: Geometry | None) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    rows = x.reshape(-1, x.shape[-1])
    return rows.shape[0], lambda index: rows[index]


def patch_rows(x: np.ndarray, geometry: Geometry) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """(number of patches, function from patch numbers to patches [n, channels * kh * kw], channel first)."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel_shape, geometry.strides, geometry.dilations
    top, left, bottom, right = resolve_pads(
        geometry.pads, x.shape[2:], geometry.kernel_shape, geometry.strides, geometry.dilations
    )
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    out_h = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    out_w = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1

    def cut(index: np.ndarray) -> np.ndarray:
        batch, place = np.divmod(index, out_h * out_w)
        row, column = np.divmod(place, out_w)
        ys = (row * sh)[:, None, None] + dh * np.arange(kh)[:, None]
        xs = (column * sw)[:, None, None] + dw * np.arange(kw)
        # advanced indices around a slice come first: [n, kh, kw, channels]
        patches = padded[batch[:, None, None], :, ys, xs]
        return np.ascontiguousarray(patches.transpose(0, 3, 1, 2)).reshape(len(index), x.shape[1] * kh * kw)

    return x.shape[0] * out_h * out_w, cut
