"""Thresholds of learned tables (LLT): one cell of each level's row, as a float32 quantizer would find them."""

from __future__ import annotations

import numpy as np

F = np.float32


def learned_thresholds(bits: int, cells: int, seed: int, *, twice: bool = False, signed: bool = False) -> np.ndarray:
    """float32 [2^bits - 1]: the least x that reaches each level, where x is divided by the width of a cell and rounded.

    twice : it is divided by the range, rounded, and multiplied with the number of cells.
    signed : half of the thresholds are negative.
    """
    rng, count = np.random.default_rng(seed), 2**bits - 1
    number = F(count * cells)
    scale = F(rng.uniform(0.3, 6))
    width = F(scale / number)
    places = np.arange(count) * cells + rng.integers(0, cells, count) - (count // 2 * cells if signed else 0)
    return np.array([_first(p, scale, number, width, twice) for p in places], F)


def _first(place: int, scale: np.float32, number: np.float32, width: np.float32, twice: bool) -> np.float32:
    """The least float32 whose cell is behind `place`."""

    def behind(x: np.float32) -> bool:
        return bool(np.rint(F(x / scale) * number if twice else x / width) > place)

    x = F((place + 0.5) * float(width))
    while behind(x):
        x = np.nextafter(x, F(-np.inf))
    while not behind(x):
        x = np.nextafter(x, F(np.inf))
    return x


def beside(thresholds: np.ndarray, reach: int = 3) -> np.ndarray:
    """float32: every threshold and up to `reach` neighbours on both sides."""
    found, up, down = [thresholds], thresholds, thresholds
    for _ in range(reach):
        up, down = np.nextafter(up, F(np.inf)), np.nextafter(down, F(-np.inf))
        found += [up, down]
    return np.concatenate(found)
