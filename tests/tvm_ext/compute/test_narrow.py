"""Narrow tables: what int8 additions they allow, and how little is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_ext.compute.narrow import added_error, is_narrow, narrow_table


def _table(seed: int, codebooks: int, outputs: int, low: int = -128, high: int = 127) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, (codebooks, 16, outputs)).astype("int8")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), codebooks=st.integers(1, 9), preadd=st.sampled_from([2, 4]),
       edge=st.sampled_from([1, 60, 100, 127]))  # fmt: skip
def test_no_sum_of_neighbours_overflows(seed: int, codebooks: int, preadd: int, edge: int) -> None:
    table, scale = _table(seed, codebooks, 5, -edge, edge), np.linspace(0.5, 2, 5, dtype="float32")
    narrow, narrow_scale = narrow_table(table, scale, preadd)
    assert narrow.dtype == np.int8 and narrow_scale.dtype == np.float32
    for start in range(0, codebooks, preadd):
        part = narrow[start : start + preadd].astype(int)
        assert part.max(axis=1).sum(axis=0).max() <= 127 and part.min(axis=1).sum(axis=0).min() >= -128
    step = narrow_scale / scale
    assert (step >= 1).all() and (step <= preadd * 1.05).all()
    assert (np.abs(narrow * step - table) <= step * 0.501).all()
    assert is_narrow(narrow, preadd)
    again, same_scale = narrow_table(narrow, narrow_scale, preadd)
    np.testing.assert_array_equal(again, narrow)
    np.testing.assert_array_equal(same_scale, narrow_scale)


def test_columns_that_fit_stay_as_they_are() -> None:
    table, scale = _table(0, 6, 3), np.ones(3, "float32")
    table[:, :, 1] //= 2
    narrow, narrow_scale = narrow_table(table, scale, 2)
    np.testing.assert_array_equal(narrow[:, :, 1], table[:, :, 1])
    assert narrow_scale[1] == 1 and (narrow_scale[[0, 2]] > 1.5).all()
    assert not is_narrow(table, 2) and is_narrow(table[:, :, 1:2], 2)


@pytest.mark.parametrize("preadd", [2, 4])
def test_added_error_is_what_random_codes_see(preadd: int) -> None:
    table, scale = _table(1, 32, 16), np.random.default_rng(2).uniform(0.1, 1, 16).astype("float32")
    narrow, narrow_scale = narrow_table(table, scale, preadd)
    codes = np.random.default_rng(3).integers(0, 16, (4000, 32))
    sums = [
        np.take_along_axis(t * s, codes.T[:, :, None], 1).sum(0) for t, s in ((table, scale), (narrow, narrow_scale))
    ]
    measured = np.sqrt(((sums[1] - sums[0]) ** 2).sum() / ((sums[0] - sums[0].mean(0)) ** 2).sum())
    assert added_error(table, scale, narrow, narrow_scale) == pytest.approx(measured, rel=0.05)
    assert added_error(table, scale, table, scale) == 0
