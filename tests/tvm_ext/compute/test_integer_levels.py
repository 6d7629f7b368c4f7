"""Float levels as integers: exact for every method whose levels are multiples, near and told for the others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tvm_ext.integer_layers import APOT
from tvm_ext.compute.integer_levels import code_shares, factor_levels, fit_levels


@pytest.mark.parametrize(
    "integers",
    [(0, 1), (-1, 1), (-1, 0, 1), (0, 1, 2, 3), tuple(range(-7, 8)), (-3, -1, 1, 3), APOT, (-4, -2, -1, 0, 1, 2, 4),
     tuple(range(-127, 128)), (0,), (5,)],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 0.0371, 1.7e-5, 913.0, -0.25])
def test_multiples_are_found(integers: tuple[int, ...], scale: float) -> None:
    """Each level is off by two units in the last place of a float32, either way."""
    levels = (np.array(integers) * scale).astype(np.float32)
    levels[::3] = np.nextafter(np.nextafter(levels[::3], np.float32(np.inf)), np.float32(np.inf)) * (levels[::3] != 0)
    found = factor_levels(levels, 127)
    assert found is not None and found.exact
    common = np.gcd.reduce(np.abs(integers)) or 1
    sign = 1 if found.scale > 0 else -1
    np.testing.assert_array_equal(found.integers * sign, np.sign(scale) * sign * np.array(integers) // common)
    np.testing.assert_allclose(found.scale * found.integers, levels, rtol=1e-6)


@pytest.mark.parametrize("levels", [(0.0, 1.0, np.pi), (0.1, 0.2, 0.3003), (1.0, 1000.0), (1e-42, 2e-42)])
def test_others_are_not(levels: tuple[float, ...]) -> None:
    assert factor_levels(np.array(levels, np.float32), 127) is None


def test_levels_of_both_signs_are_not_unsigned() -> None:
    assert factor_levels(np.array([-1, 0, 1], np.float32), 255, signed=False) is None


@pytest.mark.parametrize(("largest", "error"), [(127, 0.01), (32767, 5e-5)])
def test_a_fit_is_near(largest: int, error: float) -> None:
    levels = np.cumsum(np.exp(0.4 * np.random.default_rng(0).standard_normal(16))).astype(np.float32)
    weights = np.arange(16, 0, -1)
    found = fit_levels(levels, weights, largest)
    assert not found.exact and np.abs(found.integers).max() <= largest
    away = found.scale * found.integers - levels
    assert np.sqrt(weights @ away**2 / (weights @ levels.astype(np.float64) ** 2)) < error


def test_shares_sum_to_one() -> None:
    shares = code_shares(np.array([0.5, 1.5, np.inf], np.float32), np.arange(4))
    assert abs(shares.sum() - 1) < 1e-5 and (shares > 0).all() and shares[0] > shares[1] > shares[2]
