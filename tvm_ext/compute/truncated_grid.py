"""A grid whose index is the upper half of a float32: two operations a vector in place of four or five.

``y = x * slope + offset`` is rounded towards zero, so its upper 16 bits (as bfloat16 has them) are a function of the
exact sum that rises at whole numbers: between 128 and 256 at each of them, up to 512 at every second. Nothing is
clipped before: words subtract and become bytes with saturation. Slope and offset are negative, so that the sign bit
puts whatever lies far below the first threshold under all others, as unsigned words.

One slope in float32 does not place every threshold exactly. But where it decides wrongly, the lower half of the sum is
close to zero. So lower halves less than `doubtful` are noticed, and what they are among is computed again by the exact
plan: about one value in 2^16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

ENTRIES = 128
"""Of the table: indices saturate as signed bytes."""
_BINADE, _WHOLE = 128, 256
"""Sums from `_BINADE` on have steps of one, from `_WHOLE` on of two."""
_MOST_DOUBTFUL = 4


@dataclass(frozen=True, eq=False)
class TruncatedGrid:
    """``table[min(max(upper(x * slope + offset) - low, 0), 127)]``, except where the lower half is below `doubtful`.

    Parameters
    ----------
    slope, offset : float32 values, negative: the sum is, where it matters.
    low : of the unsigned upper half, the greatest that has index 0.
    doubtful : least lower half that can be trusted; with 0 all can.
    table : int [128], values.
    """

    slope: float
    offset: float
    low: int
    doubtful: int
    table: np.ndarray

    def evaluate(self, x: np.float32) -> tuple[int, bool]:
        """(value, whether it can be trusted) of a finite x, in the arithmetic of the kernel."""
        exact = Fraction(float(x)) * Fraction(self.slope) + Fraction(self.offset)
        bits = int(_towards_zero(exact).view(np.uint32))
        index = min(max((bits >> 16) - self.low, 0), ENTRIES - 1)
        return int(self.table[index]), bits & 0xFFFF >= self.doubtful


def truncated_grid(
    thresholds: np.ndarray, values: np.ndarray, above: list[int], slope: Fraction
) -> TruncatedGrid | None:
    """The plan for thresholds float32 [T] and values int [T + 1], or None if 128 indices do not tell them apart.

    above : the index that each threshold is the least x of, by an exact grid of this real `slope`.
    """
    spread = above[-1] - above[0]
    skipped = max(0, spread - (ENTRIES - 3))  # words of the binade below the first index, for steps of two at its end
    places = [_BINADE + 1 + skipped + a - above[0] for a in above]  # the sum at each threshold
    if places[-1] >= 2 * _WHOLE or any(place > _WHOLE and place % 2 for place in places):
        return None
    first = np.arange(ENTRIES) + skipped + _BINADE
    first = np.where(first < _WHOLE, first, 2 * first - _WHOLE)  # the least sum of each index
    table = values[np.searchsorted(places, first, side="right")]
    offset = Fraction(places[0]) - Fraction(2 * above[0] - 1, 2)
    best: tuple[int, float, float] | None = None
    for found, start in _candidates(slope, offset):
        doubtful = _doubtful(thresholds, places, found, start)
        if doubtful is not None and (best is None or doubtful < best[0]):
            best = doubtful, found, start
    if best is None:
        return None
    # the word of -128, and those behind it that are skipped
    return TruncatedGrid(-best[1], -best[2], 0xC300 + skipped, best[0], table)


def _candidates(slope: Fraction, offset: Fraction) -> Iterator[tuple[float, float]]:
    """float32 slopes beside the real one, with offsets that may be a little larger, so that no threshold is missed."""
    near = np.float32(float(slope))
    for found in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))):
        for more in range(4):
            start = float(offset) + more * 2.0**-16
            if np.isfinite(found) and float(np.float32(start)) == start and start > 0:
                yield float(found), start


def _doubtful(thresholds: np.ndarray, places: list[int], slope: float, offset: float) -> int | None:
    """The lower halves below this are those of values just below a threshold that are counted as above it.

    None if there are too many, or if a value from a threshold on is counted as below it.
    """
    rises = np.array(places, np.float64) - offset
    # products of two float32 are exact in float64, and so are differences of numbers that are close
    if (thresholds.astype(np.float64) * slope < rises).any():
        return None
    over = np.nextafter(thresholds, np.float32(-np.inf)).astype(np.float64) * slope - rises
    units = np.where(rises + offset < _WHOLE, 2.0**-16, 2.0**-15)
    doubtful = max(0, int(np.floor((over / units).max())) + 1)
    return doubtful if doubtful <= _MOST_DOUBTFUL else None


def _towards_zero(exact: Fraction) -> np.float32:
    near = np.float32(float(exact)) if abs(exact) < Fraction(2) ** 128 else np.float32(np.inf if exact > 0 else -np.inf)
    for _ in range(2):
        if not np.isfinite(near) or abs(Fraction(float(near))) > abs(exact):
            near = np.nextafter(near, np.float32(0))
    return near
