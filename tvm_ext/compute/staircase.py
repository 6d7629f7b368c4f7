"""How ``values[#{k : thresholds[k] <= x}]`` is found for a vector of x, bit for bit: the plan is made at compile time.

A staircase is monotone, and so is ``index(x) = clip(round_half_even(x * slope))`` in float32, whatever its rounding
does. So where every threshold t satisfies ``index(before t) < index(t)``, an index belongs to one code, and a table of
values decides x exactly ("grid"). Where two thresholds never share an index, one comparison with the threshold of that
index decides it ("cells"). Else thresholds are counted ("count"). The first two are proved here, threshold by
threshold, in the arithmetic that the kernel uses. Where a truncated grid is quicker, it comes first (`truncated_grid`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from tvm_ext.compute.truncated_grid import ENTRIES, TruncatedGrid, truncated_grid

_HALF = Fraction(1, 2)
_MAX_INDEX = 255
"""Largest index of a grid: a byte."""
_CELLS = 32
"""Thresholds that two AVX-512 registers hold."""
_GATHER_CELLS = 1024
_COUNTED = 3
"""Thresholds up to which counting is as cheap as anything."""


@dataclass(frozen=True)
class Slope:
    """index(x) before clipping: ``round_half_even(fl(fma(x, high, fl(x * low)) * steps))``, without what is 0 or 1."""

    high: float
    low: float = 0.0
    steps: float = 1.0

    @property
    def fused(self) -> bool:
        """Whether it needs fused multiply-add."""
        return self.low != 0.0

    @property
    def operations(self) -> int:
        return 1 + (self.low != 0.0) + (self.steps != 1.0)

    @property
    def real(self) -> Fraction:
        """What x is multiplied with, but for roundings."""
        return (Fraction(self.high) + Fraction(self.low)) * Fraction(self.steps)

    def position(self, x: np.float32) -> np.float32:
        """What is rounded to the index, in exactly this arithmetic."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.low and np.isfinite(x):
                exact = Fraction(float(x)) * Fraction(self.high) + Fraction(float(x * np.float32(self.low)))
                y = round_float32(exact)
            else:
                y = x * np.float32(self.high)
            return y * np.float32(self.steps) if self.steps != 1.0 else y

    def index(self, x: np.float32, low: int, high: int) -> int:
        return int(np.clip(np.rint(self.position(x)), low, high))


@dataclass(frozen=True, eq=False)
class Staircase:
    """A plan; see the module.

    Parameters
    ----------
    method : "grid", "cells" or "count".
    thresholds : float32 [T], strictly increasing, finite.
    values : int [T + 1], what each code becomes.
    slope, first, last : of the index.
    table : int [last - first + 1]; grid: the value of an index. cells: its value below `cuts`.
    above : cells: its value from `cuts` on.
    cuts : cells: float32, the threshold of an index, +inf where it has none.
    truncated : grid: a quicker way to most values, where there is one and it pays.
    """

    method: str
    thresholds: np.ndarray
    values: np.ndarray
    slope: Slope = Slope(1.0)
    first: int = 0
    last: int = 0
    table: np.ndarray | None = None
    above: np.ndarray | None = None
    cuts: np.ndarray | None = None
    truncated: TruncatedGrid | None = None

    @property
    def is_affine(self) -> bool:
        """A grid whose values are its indices plus a constant: no table is needed."""
        return self.method == "grid" and self.table is not None and bool((np.diff(self.table) == 1).all())


def plan_staircase(
    thresholds: np.ndarray, values: np.ndarray, *, fused: bool = True, tables: int = 256, cells: int = _CELLS,
    scale: float | None = None, truncates: bool = False,
) -> Staircase:  # fmt: skip
    """The cheapest plan for thresholds float32 [T] (non-decreasing, +inf allowed) and integer values [T + 1].

    fused : the target multiplies and adds with one rounding.
    tables : entries of the largest byte table it reads; values that are indices plus a constant need none.
    cells : entries of the largest float32 table it reads quickly; with 0, only long staircases use cells.
    scale : the largest float level, of which LLT divides its input by before it multiplies with a number of steps.
    truncates : the target reads upper halves of float32 sums quickly.
    """
    thresholds, values = clean(thresholds, values)
    count = len(thresholds)
    counting = Staircase("count", thresholds, values)
    if count < 2:
        return counting
    plan = _grid(thresholds, values, fused, tables, scale) or _cells_or_none(thresholds, values, cells) or counting
    return _truncated(plan) if truncates else plan


def _cells_or_none(thresholds: np.ndarray, values: np.ndarray, cells: int) -> Staircase | None:
    count = len(thresholds)
    found = _cells(thresholds, values, cells) if count > _COUNTED else None
    return found or (_cells(thresholds, values, _GATHER_CELLS) if count > 31 else None)


def clean(thresholds: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strictly increasing finite thresholds: of equal ones the last value counts, and +inf is only reached by +inf.

    A threshold of +inf is kept as the largest finite float's successor would be: `x >= inf` for x = +inf alone.
    """
    thresholds, values = np.asarray(thresholds, np.float32), np.asarray(values, np.int64)
    keep = np.ones(len(thresholds), bool)
    keep[:-1] = thresholds[1:] != thresholds[:-1]
    new_values = np.concatenate([values[:1], values[1:][keep]])
    thresholds = np.where(thresholds == 0, np.float32(0), thresholds)[keep]
    changes = new_values[1:] != new_values[:-1]
    return thresholds[changes], np.concatenate([new_values[:1], new_values[1:][changes]])


# grid


def _grid(
    thresholds: np.ndarray, values: np.ndarray, fused: bool, tables: int, scale: float | None
) -> Staircase | None:
    if not np.isfinite(thresholds).all() or not thresholds.any():
        return None
    size = _fit(thresholds, _MAX_INDEX)
    if size is None:
        return None
    halves = [np.floor(float(t) * size) for t in thresholds]  # the index below each threshold
    for slope in sorted(_slopes(thresholds, halves, size, fused, scale), key=lambda s: s.operations):
        plan = _checked_grid(thresholds, values, slope, tables)
        if plan is not None:
            return plan
    return None


def _fit(thresholds: np.ndarray, largest: int) -> float | None:
    """The smallest factor that brings every threshold within rounding of a half-integer, if there is one."""
    t = thresholds.astype(np.float64)
    farthest = np.abs(t).max()
    for index in range((len(t) - 1) // 2, largest + 1):
        size = (index + 0.5) / farthest
        away = t * size - np.floor(t * size) - 0.5
        if np.abs(away).max() < 1e-4:
            near = np.floor(t * size) + 0.5
            return float((near @ t) / (t @ t))
    return None


def _slopes(
    thresholds: np.ndarray, halves: list[float], size: float, fused: bool, scale: float | None
) -> Iterator[Slope]:
    """Candidates: near `size`, in one float32 or as a sum of two; or a division by `scale`, then a whole number."""
    exact = _feasible(thresholds, halves)
    middle = float(exact) if exact is not None else size
    nearest = np.float32(middle)
    for candidate in (nearest, np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(np.inf))):
        yield Slope(float(candidate))
    steps = round(size * scale) if scale and np.isfinite(scale) and scale > 0 else 0
    inverse = Fraction(1) / Fraction(float(np.float32(scale))) if steps else Fraction(0)
    if steps:
        yield Slope(float(np.float32(float(inverse))), 0.0, float(steps))
    if fused:
        for whole, factor in ((Fraction(middle), 1.0), (inverse, float(steps))):
            if whole > 0:
                high = np.float32(float(whole))
                # both parts positive: infinity times a negative one would be a number less than nothing
                high = np.nextafter(high, np.float32(0)) if Fraction(float(high)) > whole else high
                yield Slope(float(high), float(np.float32(float(whole - Fraction(float(high))))), factor)


def _feasible(thresholds: np.ndarray, halves: list[float]) -> Fraction | None:
    """The middle of the real factors s for which float32(x * s) passes index + 1/2 exactly at every threshold."""
    low, high = None, None
    for t, below in zip(thresholds, halves, strict=True):
        if t == 0:
            return None
        half = np.float32(below + 0.5)
        # a tie goes to the even index: then only what lies above the half passes it
        passes = half if int(below) % 2 else np.nextafter(half, np.float32(np.inf))
        edge = (Fraction(float(passes)) + Fraction(float(np.nextafter(passes, np.float32(-np.inf))))) / 2
        bounds = sorted((edge / Fraction(float(t)), edge / Fraction(float(np.nextafter(t, np.float32(-np.inf))))))
        low = bounds[0] if low is None else max(low, bounds[0])
        high = bounds[1] if high is None else min(high, bounds[1])
    return (low + high) / 2 if low is not None and high is not None and low <= high else None


def _checked_grid(thresholds: np.ndarray, values: np.ndarray, slope: Slope, tables: int) -> Staircase | None:
    before = np.nextafter(thresholds, np.float32(-np.inf))
    above = [slope.index(t, -(1 << 20), 1 << 20) for t in thresholds]
    below = [slope.index(t, -(1 << 20), 1 << 20) for t in before]
    if any(b >= a for a, b in zip(above, below, strict=True)):
        return None
    first, last = below[0], above[-1]
    first = 0 if first > 0 and last < tables else first  # one subtraction less
    index = np.arange(first, last + 1)
    plan = Staircase(
        "grid", thresholds, values, slope, first, last, values[np.searchsorted(above, index, side="right")]
    )
    return plan if len(index) <= (_MAX_INDEX + 1 if plan.is_affine else tables) else None


def _truncated(plan: Staircase) -> Staircase:
    """With a truncated grid, where that is cheaper than the plan alone."""
    t = plan.thresholds
    if plan.method == "grid":
        size = len(plan.table) if plan.table is not None else 0
        if plan.is_affine or size <= ENTRIES // 2 or (size <= ENTRIES and plan.slope.operations < 2):
            return plan
        slope, above = plan.slope.real, [plan.slope.index(x, -(1 << 20), 1 << 20) for x in t]
    else:
        fitted = _fit(t, _MAX_INDEX) if len(t) > 2 and np.isfinite(t).all() and t.any() else None
        if fitted is None:
            return plan
        slope, above = Fraction(fitted), [int(np.floor(float(x) * fitted)) + 1 for x in t]
    return replace(plan, truncated=truncated_grid(t, plan.values, above, slope))


# cells


def _cells(thresholds: np.ndarray, values: np.ndarray, limit: int) -> Staircase | None:
    if limit == 0 or not np.isfinite(thresholds).all():
        return None
    span = float(thresholds[-1]) - float(thresholds[0])
    sizes = range(len(thresholds) - 1, limit) if limit <= 64 else (1 << b for b in range(5, limit.bit_length()))
    for size in sizes:
        factor = np.float32(size / span) if span > 0 else np.float32(0)
        if not np.isfinite(factor) or factor == 0:
            return None
        slope = Slope(float(factor))
        with np.errstate(over="ignore"):
            indices = np.array([np.rint(slope.position(t)) for t in thresholds])
        if not np.isfinite(indices).all() or np.abs(indices).max() > 1 << 20 or len(np.unique(indices)) < len(indices):
            continue
        indices = indices.astype(np.int64)
        first, last = int(indices[0]), int(indices[-1])
        if last - first + 1 > limit:
            continue
        index = np.arange(first, last + 1)
        below, above = np.searchsorted(indices, index, side="left"), np.searchsorted(indices, index, side="right")
        cuts = np.full(len(index), np.inf, np.float32)
        cuts[indices - first] = thresholds
        return Staircase("cells", thresholds, values, slope, first, last, values[below], values[above], cuts)
    return None


def evaluate(plan: Staircase, x: np.ndarray) -> np.ndarray:
    """What the kernel computes for x float32 [n], by the plan; NaN gets values[0]. For checks."""
    result = np.full(len(x), plan.values[0], np.int64)
    for n, value in enumerate(x):
        if np.isnan(value):
            continue
        if plan.method == "count":
            result[n] = plan.values[int((plan.thresholds <= value).sum())]
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            at = plan.slope.index(value, plan.first, plan.last) - plan.first
        assert plan.table is not None
        result[n] = plan.table[at]
        if plan.method == "cells" and plan.cuts is not None and plan.above is not None and value >= plan.cuts[at]:
            result[n] = plan.above[at]
    return result


def round_float32(exact: Fraction) -> np.float32:
    """The nearest float32, ties to even."""
    if exact == 0:
        return np.float32(0)
    near = np.float32(float(exact))  # off by at most one in the last place after two roundings
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    finite = [c for c in candidates if np.isfinite(c)]
    if not finite:
        return near
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))
