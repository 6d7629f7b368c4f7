"""Plans of staircases decide every float32 as counting thresholds does, and are cheap where that can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests import oracle_levels
from tvm_ext.compute.staircase import Staircase, evaluate, plan_staircase

F = np.float32
_INF = F(np.inf)


def _key(x: float) -> int:
    bits = int(np.array(x, np.float32).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _value(key: int) -> np.float32:
    return np.array(key if key >= 0 else (-key) - 2**31, np.int64).astype(np.int32).view(np.float32)[()]


def _thresholds(quantizer: Callable[[np.float32], int]) -> np.ndarray:
    """Where a monotone function of a float32 rises, found by bisection over bit patterns."""
    found: list[np.float32] = []

    def search(low: int, high: int, at_low: int, at_high: int) -> None:
        if at_low == at_high:
            return
        if high - low == 1:
            found.append(_value(high))
            return
        middle = (low + high) // 2
        value = quantizer(_value(middle))
        search(low, middle, at_low, value)
        search(middle, high, value, at_high)

    ends = _key(-3e38), _key(3e38)
    with np.errstate(over="ignore"):
        search(*ends, *(quantizer(_value(end)) for end in ends))
    return np.array(found, np.float32)


def _check(plan: Staircase, thresholds: np.ndarray, values: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    near = [_value(_key(float(t)) + d) for t in thresholds[np.isfinite(thresholds)] for d in range(-3, 4)]
    spread = rng.standard_normal(100) * min(3 * float(np.abs(thresholds[np.isfinite(thresholds)]).max(initial=1)), 1e37)
    x = np.array([*near, *spread, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf], np.float32)
    expected = np.asarray(values)[oracle_levels.codes(x, thresholds)]
    np.testing.assert_array_equal(evaluate(plan, x), expected)


def _lsq(step: np.float32, low: int, high: int) -> Callable[[np.float32], int]:
    return lambda x: int(np.clip(np.rint(x / step), low, high))


def _llt(scale: np.float32, places: np.ndarray, cells: int) -> Callable[[np.float32], int]:
    def quantizer(x: np.float32) -> int:
        place = np.rint(np.clip(x / scale, F(-1), F(1)) * F(cells))
        return int((places < place).sum()) if x > 0 else 0

    return quantizer


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 15), (-8, 7), (0, 255)])
def test_a_division_is_a_grid(low: int, high: int, seed: int) -> None:
    """LSQ's rounding of x / step is one or two multiplications, without a table."""
    step = F(np.random.default_rng(seed).uniform(0.01, 2))
    thresholds, values = _thresholds(_lsq(step, low, high)), np.arange(low, high + 1)
    plan = plan_staircase(thresholds, values)
    assert plan.method == "grid" and plan.is_affine and plan.slope.operations <= 2
    _check(plan, thresholds, values)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("bits", "granularity"), [(2, 9), (3, 8), (4, 9), (4, 16)])
def test_a_learned_table_is_a_grid(bits: int, granularity: int, seed: int) -> None:
    """LLT rounds twice (x / s, times the cells): so does the plan, where one rounding does not do."""
    rng = np.random.default_rng(seed)
    steps = 2**bits - 1
    scale, places = F(rng.uniform(0.1, 8)), np.arange(steps) * granularity + rng.integers(0, granularity, steps)
    thresholds, values = _thresholds(_llt(scale, places, steps * granularity)), np.arange(steps + 1)
    plan = plan_staircase(thresholds, values, scale=float(scale))
    assert plan.method == "grid" and not plan.is_affine
    _check(plan, thresholds, values)
    without = plan_staircase(thresholds, values, fused=False, scale=float(scale))
    assert not without.slope.fused
    _check(without, thresholds, values)


@pytest.mark.parametrize("seed", range(4))
def test_any_thresholds_take_one_comparison(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds = np.cumsum(rng.uniform(0.15, 0.5, 15)).astype(np.float32) - F(2 * (seed % 2))
    values = rng.integers(-128, 128, 16)
    plan = plan_staircase(thresholds, values)
    assert plan.method == "cells" and plan.table is not None and len(plan.table) <= 32
    _check(plan, thresholds, values)
    assert plan_staircase(thresholds, values, cells=0).method == "count"


def test_many_thresholds_take_one_comparison_anywhere() -> None:
    thresholds = np.cumsum(np.random.default_rng(0).uniform(0.2, 0.5, 200)).astype(np.float32)
    plan = plan_staircase(thresholds, np.arange(201), cells=0)
    assert plan.method == "cells"
    _check(plan, thresholds, np.arange(201))


@pytest.mark.parametrize(
    ("thresholds", "values"),
    [
        ([], [7]),
        ([0.5], [-1, 1]),
        ([0.0], [-1, 1]),
        ([0.25, 0.25, 0.5], [0, 9, 1, 2]),
        ([0.25, np.inf, np.inf], [0, 1, 2, 3]),
        ([np.inf], [0, 1]),
        ([1e-45, 1e-38, 1e-30, 1.0, 3e38], [0, 1, 2, 3, 4, 5]),
        ([-3e38, 0.0, 3e38], [3, 2, 1, 0]),
        ([1.0, np.nextafter(F(1), _INF), 2.0, 5.0, 6.0], [0, 1, 2, 3, 4, 5]),
        ([0.5, 1.5, 2.5, 3.5], [4, 3, 3, 1, 0]),
    ],
)  # fmt: skip
def test_odd_staircases(thresholds: list[float], values: list[int]) -> None:
    t = np.array(thresholds, np.float32)
    for settings in ({}, {"fused": False}, {"cells": 0}, {"tables": 16, "cells": 0}):
        _check(plan_staircase(t, np.array(values), **settings), t, np.array(values))
