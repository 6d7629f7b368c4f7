"""Truncated grids give the value of the definition wherever they trust themselves, which is almost everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracle_levels
from tests.tvm_ext.learned_tables import F, beside, learned_thresholds
from tvm_ext.compute.staircase import Staircase, plan_staircase

_EDGES = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 2.0**31, -(2.0**31), 1e6, -1e6]


def _plan(thresholds: np.ndarray, values: np.ndarray | None = None, **settings) -> Staircase:
    values = np.arange(len(thresholds) + 1) if values is None else values
    return plan_staircase(thresholds, values, truncates=True, **settings)


def _check(plan: Staircase, x: np.ndarray) -> float:
    """The part of x float32 [n] that is trusted; all of that must be right."""
    assert plan.truncated is not None
    expected = plan.values[oracle_levels.codes(x, plan.thresholds)]
    got = [plan.truncated.evaluate(value) for value in x]
    trusted = np.array([t for _, t in got])
    np.testing.assert_array_equal(np.array([v for v, _ in got])[trusted], expected[trusted])
    return float(trusted.mean())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("bits", "cells", "twice", "signed"), [
    (4, 9, False, False), (4, 9, True, False), (4, 9, True, True), (4, 8, False, True), (3, 16, True, False),
])  # fmt: skip
def test_what_is_trusted_is_right(bits: int, cells: int, twice: bool, signed: bool, seed: int) -> None:
    t = learned_thresholds(bits, cells, seed, twice=twice, signed=signed)
    plan = _plan(t)
    if plan.truncated is None:
        pytest.skip("one multiplication is exact, or thresholds at the far end lie an odd number of cells apart")
    rng, far = np.random.default_rng(seed), float(np.abs(t).max())
    _check(plan, np.array([*beside(t, 4), *_EDGES], F))
    # powers of two above and beside the range have empty lower halves; random values hardly ever
    assert _check(plan, rng.uniform(-1.5 * far, 1.5 * far, 2000).astype(F)) > 0.99


def test_most_learned_tables_have_one() -> None:
    plans = [_plan(learned_thresholds(4, 9, seed, twice=True)) for seed in range(40)]
    assert sum(plan.truncated is not None for plan in plans) >= 30
    assert all(plan.truncated.doubtful <= 2 for plan in plans if plan.truncated is not None)


def test_rounded_thresholds_need_no_exact_grid() -> None:
    """Thresholds that were computed, not found: no grid passes exactly at all of them, and the quick one need not."""
    rng = np.random.default_rng(3)
    t = ((np.arange(15) * 9 + rng.integers(0, 9, 15) + 0.5) * 0.0123).astype(F)
    plan = _plan(t)
    assert plan.method != "grid" and plan.truncated is not None
    _check(plan, beside(t, 4))


def test_values_may_be_any() -> None:
    t = learned_thresholds(4, 8, 5)
    values = np.random.default_rng(0).integers(-128, 128, 16)
    plan = _plan(t, values)
    assert plan.truncated is not None
    _check(plan, np.concatenate([beside(t), np.linspace(-1, 7, 500).astype(F)]))


def test_more_cells_than_a_table_has_take_steps_of_two() -> None:
    """First and last threshold 134 cells apart: the last cells share indices, if thresholds there lie evenly."""
    even, odd = np.arange(15) * 9, np.arange(15) * 9
    even[-1], odd[-1], odd[-2] = 134, 134, 125
    t = ((even + 0.5) * 0.05).astype(F)
    assert _plan(t).truncated is not None
    _check(_plan(t), np.concatenate([beside(t, 4), np.arange(-10, 160).astype(F) * F(0.05)]))
    assert _plan(((odd + 0.5) * 0.05).astype(F)).truncated is None


@pytest.mark.parametrize("thresholds", [
    learned_thresholds(4, 1, 0),  # evenly spaced: no table at all
    (np.arange(2) + 0.5) * 0.2,  # few enough to count
    np.cumsum([0.1, 0.2, 0.15, 0.31, 0.12, 0.4]),  # no grid
    [-np.inf, 0, 1], [0.5, 1.5, np.inf], [0.0, 1.0, 2.0, 3.0, 4.0],
    np.array([0.5, 151.5, 200.5, 220.5, 230.5]) * 0.01,  # too many cells
])  # fmt: skip
def test_others_have_none(thresholds) -> None:
    assert _plan(np.array(thresholds, F)).truncated is None


def test_only_where_asked_for() -> None:
    t = learned_thresholds(4, 9, 1)
    assert plan_staircase(t, np.arange(16)).truncated is None


def test_where_one_slope_is_exact_nothing_is_in_doubt() -> None:
    places = np.array([3, 4, 11, 30, 31, 47, 64, 90, 101, 110, 119, 120])
    t = ((places + 0.5) / 8).astype(F)  # both as float32 and times 8
    plan = _plan(t)
    assert plan.truncated is not None and plan.truncated.doubtful == 0
    assert _check(plan, np.array([*beside(t), *_EDGES], F)) == 1
